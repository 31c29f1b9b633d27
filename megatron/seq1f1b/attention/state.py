"""Keys, values and their gradients of one sequence, shared by its chunks.

    rows        0 ........... start ....... stop ........... S
    forward     [ prefix, read ][ chunk, written by position ]
    backward    [  dK, dV +=   ][ own rows, taken out        ]

The cache is written in place and is the saved activation: there is no second copy of the keys and
values. Writing by position makes a recomputed forward harmless, since it writes the same rows
again. Gradients of the prefix accumulate in a buffer that lives from the backward of the last
chunk to that of the first.

State hangs on objects that travel with the call, never on the thread: on CUDA a recomputed forward
runs in a thread of autograd's.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from megatron.seq1f1b.attention.pool import CachePool
from megatron.seq1f1b.chunk import Chunk
from megatron.seq1f1b.errors import StepError


class _KVBuffer(NamedTuple):
    """One buffer of a pool, "two batch groups rows head_dim", its halves, and those with rows first."""

    both: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    key_rows: torch.Tensor
    value_rows: torch.Tensor


class KVCache:
    """Keys and values of one layer and one sequence, and the gradients of its prefixes.

    Each buffer is "two batch groups sequence head_dim" (keys first, values second), contiguous,
    with the heads of keys and values only: grouped query heads are never expanded here.
    """

    def __init__(self, *, pool: CachePool, seq_length: int, num_chunks: int, owner: str) -> None:
        self._pool = pool
        self._seq_length = seq_length
        self._owner = owner
        self._rows: _KVBuffer | None = None
        self._gradients: _KVBuffer | None = None
        self._num_written = 0
        self._next_backward = num_chunks - 1

    def write(self, chunk: Chunk, key: torch.Tensor, value: torch.Tensor) -> None:
        """Store the chunk's keys and values, "chunk batch groups head_dim" each.

        Raises:
            StepError: the chunk's prefix was never written, or the chunk does not fit.
        """
        if chunk.start > self._num_written or chunk.stop > self._seq_length:
            raise StepError(
                f"{self._owner}: chunk {chunk.index} writes rows [{chunk.start}, {chunk.stop}) "
                f"of {self._seq_length}, but only [0, {self._num_written}) are there; run the "
                "forwards of a microbatch's chunks in order, and none after its last backward"
            )
        if self._rows is None:
            _, batch, groups, head_dim = key.shape
            shape = (batch, groups, self._seq_length, head_dim)
            self._rows = self._take(shape, dtype=key.dtype, like=key, what="keys and values")
        self._rows.key_rows[chunk.start : chunk.stop] = key
        self._rows.value_rows[chunk.start : chunk.stop] = value
        self._num_written = max(self._num_written, chunk.stop)

    def read(self, chunk: Chunk) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values, "batch groups sequence head_dim"; rows from chunk.stop on are undefined.

        Raises:
            StepError: rows up to chunk.stop are not held.
        """
        if self._rows is None or chunk.stop > self._num_written:
            raise StepError(
                f"{self._owner}: keys and values [0, {chunk.stop}) are needed, but only "
                f"[0, {self._num_written}) are held; was the state closed before its backward?"
            )
        return self._rows.key, self._rows.value

    def accumulators(self, chunk: Chunk) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradients of keys and values so far, as the backward of `chunk` finds them.

        "batch groups rows head_dim" each, rows [0, start of the last chunk), in float32 or the
        keys' dtype where that is wider; taken and zeroed at the last chunk's backward.

        Raises:
            StepError: the backwards of the chunks do not run in reverse order, each once.
        """
        if chunk.index != self._next_backward:
            raise StepError(
                f"{self._owner}: backward of chunk {chunk.index} where chunk "
                f"{self._next_backward} is due; backwards run from the last chunk to the first"
            )
        self._next_backward -= 1
        if self._gradients is None:
            assert self._rows is not None, "a backward reads the cache before it asks for this"
            batch, groups, _, head_dim = self._rows.key.shape
            dtype = torch.promote_types(self._rows.key.dtype, torch.float32)
            self._gradients = self._take(
                (batch, groups, chunk.start, head_dim),
                dtype=dtype,
                like=self._rows.key,
                what="gradients of keys and values",
            )
            self._gradients.both.zero_()
        return self._gradients.key, self._gradients.value

    def release(self) -> None:
        """Return every buffer to the pool; nothing may use this cache afterwards."""
        for buffer in (self._rows, self._gradients):
            if buffer is not None:
                self._pool.give(buffer.both)
        self._rows = self._gradients = None
        self._num_written = 0

    def _take(
        self, shape: tuple[int, ...], *, dtype: torch.dtype, like: torch.Tensor, what: str
    ) -> _KVBuffer:
        both = self._pool.take((2, *shape), dtype=dtype, device=like.device, purpose=f"{self._owner} {what}")
        return _KVBuffer(both, *both.unbind(), *both.permute(0, 3, 1, 2, 4).unbind())


class SequenceState:
    """Attention state of one microbatch on one virtual stage: a cache per layer, made lazily.

    Args:
        pool: where the buffers come from and return to.
        seq_length: tokens of the whole sequence, the sum of its chunks' lengths.
        microbatch: for error messages, here and of who is given this state.
        virtual_stage: for error messages.
        num_chunks: k.
    """

    def __init__(
        self,
        *,
        pool: CachePool,
        seq_length: int,
        microbatch: int,
        virtual_stage: int,
        num_chunks: int,
    ) -> None:
        self.seq_length = seq_length
        self.num_chunks = num_chunks
        self._pool = pool
        self.microbatch = microbatch
        self._name = f"virtual stage {virtual_stage}, microbatch {microbatch}"
        self._caches: dict[int, KVCache] = {}
        self._is_closed = False

    def cache(self, layer_number: int) -> KVCache:
        """The layer's cache; buffers are taken from the pool at the first write.

        Raises:
            StepError: the state was closed.
        """
        cache = self._caches.get(layer_number)
        if cache is None:
            if self._is_closed:
                raise StepError(f"{self._name}: layer {layer_number} runs after the state closed")
            cache = self._caches[layer_number] = KVCache(
                pool=self._pool,
                seq_length=self.seq_length,
                num_chunks=self.num_chunks,
                owner=f"{self._name}, layer {layer_number}",
            )
        return cache

    def close(self) -> None:
        """Return every buffer to the pool; closing twice is harmless."""
        for cache in self._caches.values():
            cache.release()
        self._caches.clear()
        self._is_closed = True
