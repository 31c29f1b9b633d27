"""The microbatches of one model part, handed out chunk by chunk.

A microbatch is taken from the data iterator when its first chunk is computed and forgotten after
its last one; Megatron's forward-step functions see each chunk as a batch of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from megatron.seq1f1b.chunk import Chunk
from megatron.seq1f1b.errors import StepError

Batch = Any
"""What a data iterator yields: a dictionary or tuple of `[batch, sequence]` tensors."""


def loss_mask_of_dictionary(batch: Batch) -> torch.Tensor | None:
    """The `loss_mask` of a dictionary, None where there is none."""
    mask: torch.Tensor | None = batch.get("loss_mask") if isinstance(batch, dict) else None
    return mask


def params_in_dictionary(batch: Batch, part: torch.nn.Module, params: object) -> Batch:
    """The batch with the chunk's parameters as `packed_seq_params`, for a step that passes them on."""
    return {**batch, "packed_seq_params": params}


@dataclass(frozen=True, kw_only=True)
class BatchFormat:
    """How the runtime deals with batches it knows nothing of."""

    slice_batch: Callable[[Batch, Chunk], Batch]
    """Cuts a microbatch's tensors to one chunk's span."""
    loss_mask_of: Callable[[Batch], torch.Tensor | None] = loss_mask_of_dictionary
    """Which tokens of a microbatch count in the loss, `[batch, sequence]`."""
    deliver: Callable[[Batch, torch.nn.Module, object], Batch] = params_in_dictionary
    """What the forward step gets for a chunk: from its batch, the model part and its parameters."""


class Microbatches:
    """Chunks of the microbatches that one model part reads."""

    def __init__(
        self, data_iterator: Iterator[Batch] | None, *, chunks: Sequence[Chunk], batch_format: BatchFormat
    ) -> None:
        self._data_iterator = data_iterator
        self._chunks = chunks
        self._format = batch_format
        self._open: dict[int, Batch] = {}
        self._num_taken = 0

    def chunk_of(self, microbatch: int, chunk: int) -> Batch:
        """One chunk's tensors; an empty dictionary where the part reads no data."""
        if self._data_iterator is None:
            return {}
        batch = self._batch(microbatch)
        if self._chunks[chunk].is_last:
            del self._open[microbatch]
        return self._format.slice_batch(batch, self._chunks[chunk])

    def loss_mask(self, microbatch: int) -> torch.Tensor | None:
        """The mask of the whole microbatch; None where the part reads none."""
        if self._data_iterator is None:
            return None
        return self._format.loss_mask_of(self._batch(microbatch))

    def _batch(self, microbatch: int) -> Batch:
        if microbatch not in self._open:
            assert self._data_iterator is not None
            if microbatch != self._num_taken:
                raise StepError(
                    f"microbatch {microbatch} is wanted, but the data iterator has delivered "
                    f"{self._num_taken}: a plan must start microbatches in ascending order"
                )
            self._open[microbatch] = next(self._data_iterator)
            self._num_taken += 1
        return self._open[microbatch]
