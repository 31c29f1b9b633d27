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

import torch

from megatron.seq1f1b.attention.pool import CachePool
from megatron.seq1f1b.chunk import Chunk
from megatron.seq1f1b.errors import StepError


class KVCache:
    """Keys and values of one layer and one sequence, and the gradients of its prefixes.

    Each buffer is "two batch groups sequence head_dim" (keys first, values second), contiguous,
    with the heads of keys and values only: grouped query heads are never expanded here.
    """

    def __init__(self, *, pool: CachePool, seq_length: int, num_chunks: int, owner: str) -> None:
        self._pool = pool
        self._seq_length = seq_length
        self._owner = owner
        self._rows: torch.Tensor | None = None
        self._gradients: torch.Tensor | None = None
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
            self._rows = self._pool.take(
                (2, batch, groups, self._seq_length, head_dim),
                dtype=key.dtype,
                device=key.device,
                purpose=f"{self._owner} keys and values",
            )
        rows = self._rows.narrow(3, chunk.start, chunk.length)
        keys, values = rows.unbind()
        keys.copy_(key.permute(1, 2, 0, 3))
        values.copy_(value.permute(1, 2, 0, 3))
        self._num_written = max(self._num_written, chunk.stop)

    def read(self, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Views of keys and values [0, stop), "batch groups stop head_dim" each."""
        if self._rows is None or stop > self._num_written:
            raise StepError(
                f"{self._owner}: keys and values [0, {stop}) are needed, but only "
                f"[0, {self._num_written}) are held; was the state closed before its backward?"
            )
        key, value = self._rows.narrow(3, 0, stop).unbind()
        return key, value

    def prefix_gradients(self, chunk: Chunk) -> torch.Tensor | None:
        """The accumulator as chunk's backward finds it; None while no later chunk has run.

        Rows [0, start of the last chunk), in float32 or the keys' dtype where that is wider.

        Raises:
            StepError: the backwards of the chunks do not run in reverse order, each once.
        """
        if chunk.index != self._next_backward:
            raise StepError(
                f"{self._owner}: backward of chunk {chunk.index} where chunk "
                f"{self._next_backward} is due; backwards run from the last chunk to the first"
            )
        self._next_backward -= 1
        if self._gradients is None and not chunk.is_first:
            assert self._rows is not None, "a backward reads the cache before it asks for this"
            two, batch, groups, _, head_dim = self._rows.shape
            self._gradients = self._pool.take(
                (two, batch, groups, chunk.start, head_dim),
                dtype=torch.promote_types(self._rows.dtype, torch.float32),
                device=self._rows.device,
                purpose=f"{self._owner} gradients of keys and values",
            ).zero_()
        return self._gradients

    def release(self) -> None:
        """Return every buffer to the pool; nothing may use this cache afterwards."""
        for buffer in (self._rows, self._gradients):
            if buffer is not None:
                self._pool.give(buffer)
        self._rows = self._gradients = None
        self._num_written = 0


class SequenceState:
    """Attention state of one microbatch on one virtual stage: a cache per layer, made lazily.

    Args:
        pool: where the buffers come from and return to.
        seq_length: tokens of the whole sequence, the sum of its chunks' lengths.
        microbatch: for error messages.
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
