"""The KV caches of all microbatches in flight, as the runtime asks for them."""

from __future__ import annotations

from collections.abc import Sequence

from megatron.seq1f1b.attention import CachePool, ChunkSeqParams, SequenceState
from megatron.seq1f1b.chunk import Chunk, UnitLike
from megatron.seq1f1b.model.documents import DocumentReader


class KVCachePool:
    """Gives every step its caches; buffers go from one step to the next."""

    def __init__(self) -> None:
        self.pool = CachePool()

    def __call__(self, chunks: Sequence[Chunk]) -> KVCaches:
        """The caches of one step over sequences cut into `chunks`."""
        return KVCaches(chunks, pool=self.pool)


class KVCaches:
    """One `SequenceState` per (virtual stage, microbatch), its buffers from one pool.

    The pool outlives the step, so that steps after the first allocate no cache.
    """

    def __init__(self, chunks: Sequence[Chunk], *, pool: CachePool) -> None:
        self._chunks = chunks
        self._pool = pool
        self._states: dict[tuple[int, int], SequenceState] = {}
        self._read_documents = DocumentReader()

    def params(
        self, unit: UnitLike, given: object = None, *, num_sequences: int | None = None
    ) -> ChunkSeqParams:
        """What the model takes as `packed_seq_params` for a unit.

        Args:
            unit: which chunk of which microbatch.
            given: what stands for the whole sequences: None, or where packed documents start.
            num_sequences: of the microbatch, None where it is not known.

        Raises:
            ConfigurationError: packed documents that cannot be read.
        """
        key = (unit.virtual_stage, unit.microbatch)
        if key not in self._states:
            self._states[key] = SequenceState(
                pool=self._pool,
                seq_length=self._chunks[-1].stop,
                microbatch=unit.microbatch,
                virtual_stage=unit.virtual_stage,
                num_chunks=len(self._chunks),
            )
        documents = self._read_documents(given, seq_length=self._chunks[-1].stop, num_sequences=num_sequences)
        return ChunkSeqParams(
            chunk=self._chunks[unit.chunk], state=self._states[key], document_starts=documents
        )

    def release(self, unit: UnitLike) -> None:
        """Give a microbatch's buffers on one virtual stage back to the pool."""
        self._states.pop((unit.virtual_stage, unit.microbatch)).close()

    def check_empty(self) -> None:
        """StepError where a buffer was not given back."""
        self._pool.assert_empty()
