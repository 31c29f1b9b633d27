"""One read per tensor-parallel group: its first rank reads, the others receive.

A microbatch travels as one message of known size, so nothing is negotiated. The end of the data and
a failed read travel the same way: no rank is left waiting. Over gloo the message stays on the CPU,
and receiving it never waits for the device; over NCCL it does, for as long as the device is busy.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from megatron.seq1f1b.data.loader import Batch
from megatron.seq1f1b.errors import DataError

_BATCH, _END, _FAILED = 1, 0, 2
_HEADER_BYTES = 8

Layout = dict[str, tuple[torch.Size, torch.dtype]]


class TensorParallelBatches(Iterator[Batch]):
    """The microbatches of a tensor-parallel group, equal on all of its ranks."""

    def __init__(
        self,
        source: Iterator[Batch] | None,
        *,
        group: dist.ProcessGroup | None,
        micro_batch_size: int,
        seq_length: int,
        has_document_starts: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        """Nothing is sent before the first `next`.

        Args:
            source: the microbatches, on the group's first rank; ignored on the others.
            group: the tensor-parallel group; `None` is a group of this process alone.
            micro_batch_size: b.
            seq_length: S.
            has_document_starts: whether batches carry `document_starts`.
            device: where batches are wanted, whatever the group's backend.
        """
        self._group = group
        self._device = torch.device(device)
        self._is_shared = group is not None and dist.get_world_size(group) > 1
        is_gloo = self._is_shared and dist.get_backend(group) == "gloo"
        self._message_device = torch.device("cpu") if is_gloo else self._device
        self._is_reader = not self._is_shared or dist.get_rank(group) == 0
        self._source = source if self._is_reader else None
        self._layout = _layout(micro_batch_size, seq_length, has_document_starts)
        assert not self._is_reader or source is not None, "the first rank of the group reads"

    def __next__(self) -> Batch:
        if not self._is_shared:
            assert self._source is not None
            return self._on_device(next(self._source))
        num_bytes = _HEADER_BYTES + _message_bytes(self._layout)
        message = torch.empty(num_bytes, dtype=torch.uint8, device=self._message_device)
        failure = self._fill(message) if self._is_reader else None
        assert self._group is not None
        dist.broadcast(message, src=dist.get_global_rank(self._group, 0), group=self._group)
        if failure is not None:
            raise failure
        status = int(message[0])
        if status == _END:
            raise StopIteration
        if status == _FAILED:
            raise DataError("reading a batch failed on the first rank of the tensor-parallel group")
        return self._on_device(_unpack(message[_HEADER_BYTES:], self._layout))

    def _fill(self, message: Tensor) -> Exception | None:
        """Write the next batch, or why there is none, into `message`; a failure is returned."""
        assert self._source is not None
        try:
            batch = next(self._source)
        except StopIteration:
            message[0] = _END
        except Exception as error:
            message[0] = _FAILED
            return error
        else:
            message[0] = _BATCH
            _pack(batch, message[_HEADER_BYTES:], self._layout)
        return None

    def _on_device(self, batch: Batch) -> Batch:
        return {name: field.to(self._device, non_blocking=True) for name, field in batch.items()}


def _layout(micro_batch_size: int, seq_length: int, has_document_starts: bool) -> Layout:
    """Fields in the order of the message: int64 first, so that every view is aligned."""
    shape = torch.Size((micro_batch_size, seq_length))
    names = ["tokens", "labels", "position_ids"] + ["document_starts"] * has_document_starts
    fields: Layout = dict.fromkeys(names, (shape, torch.int64))
    fields["loss_mask"] = (shape, torch.float32)
    return fields


def _message_bytes(layout: Layout) -> int:
    return sum(shape.numel() * dtype.itemsize for shape, dtype in layout.values())


def _unpack(payload: Tensor, layout: Layout) -> Batch:
    """Views of the payload, one per field."""
    batch, start = {}, 0
    for name, (shape, dtype) in layout.items():
        stop = start + shape.numel() * dtype.itemsize
        batch[name] = payload[start:stop].view(dtype).view(shape)
        start = stop
    return batch


def _pack(batch: Batch, payload: Tensor, layout: Layout) -> None:
    for name, place in _unpack(payload, layout).items():
        place.copy_(batch[name], non_blocking=True)
