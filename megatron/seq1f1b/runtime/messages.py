"""Buffers that messages are received into, kept from step to step.

Chunks differ in length, so there is a store per shape. A step takes as many as it has receives
posted or inputs alive at a time and gives every one back, so that the steps after the first
allocate none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import torch

from megatron.seq1f1b.chunk import Chunk

NewMessage = Callable[[Chunk], torch.Tensor]
"""A new buffer for a chunk's message: [length / tensor-sequence parallelism, batch, hidden]."""


class MessageBuffers:
    """The receive buffers of one pipeline rank."""

    def __init__(self, new_message: NewMessage) -> None:
        self._new_message = new_message
        self._free: dict[int, list[torch.Tensor]] = defaultdict(list)
        self.num_allocated = 0
        """Buffers made so far."""

    def take(self, chunk: Chunk) -> torch.Tensor:
        """A buffer for a chunk's message, a tensor of its own over memory that nothing else uses."""
        free = self._free[chunk.length]
        if not free:
            self.num_allocated += 1
            return self._new_message(chunk)
        return free.pop().detach()

    def give(self, chunk: Chunk, buffer: torch.Tensor) -> None:
        """Give a chunk's buffer back; nothing may read it any more."""
        self._free[chunk.length].append(buffer.detach())


def shares_memory(tensor: torch.Tensor, other: torch.Tensor | None) -> bool:
    """Whether two tensors lie in one storage."""
    if other is None or tensor.is_meta or other.is_meta:
        return False
    return tensor.untyped_storage()._cdata == other.untyped_storage()._cdata
