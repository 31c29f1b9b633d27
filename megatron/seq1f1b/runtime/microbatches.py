"""The microbatches of one model part, handed out chunk by chunk.

A microbatch is taken from the data iterator when its first chunk is computed and forgotten after
its last one; Megatron's forward-step functions see each chunk as a batch of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from megatron.seq1f1b.chunk import Chunk
from megatron.seq1f1b.errors import StepError

Batch = dict[str, torch.Tensor]
"""Tensors of a microbatch by name; `tokens`, `labels` and so on are `[batch, sequence]`."""

SliceBatch = Callable[[Batch, Chunk], dict[str, torch.Tensor]]
"""Cuts a microbatch's tensors to one chunk's span."""


class Microbatches:
    """Chunks of the microbatches that one model part reads."""

    def __init__(
        self,
        data_iterator: Iterator[Batch] | None,
        *,
        chunks: Sequence[Chunk],
        slice_batch: SliceBatch,
    ) -> None:
        self._data_iterator = data_iterator
        self._chunks = chunks
        self._slice_batch = slice_batch
        self._open: dict[int, Batch] = {}
        self._num_taken = 0

    def chunk_of(self, microbatch: int, chunk: int) -> dict[str, torch.Tensor]:
        """One chunk's tensors; an empty dictionary where the part reads no data."""
        if self._data_iterator is None:
            return {}
        batch = self._batch(microbatch)
        if self._chunks[chunk].is_last:
            del self._open[microbatch]
        return self._slice_batch(batch, self._chunks[chunk])

    def num_loss_tokens(self, microbatch: int) -> torch.Tensor | None:
        """Tokens of the whole microbatch that count in the loss; None where no mask is read."""
        if self._data_iterator is None:
            return None
        mask = self._batch(microbatch).get("loss_mask")
        return None if mask is None else mask.sum()

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
