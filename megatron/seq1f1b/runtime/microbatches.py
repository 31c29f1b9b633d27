"""The microbatches of one model part, each handed out once for every chunk.

A microbatch is taken from the data iterator when a forward step first asks for it, so a stage whose
forward step reads nothing takes nothing, and it is forgotten after its last chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from megatron.seq1f1b.errors import ConfigurationError, DataError, StepError

Batch = Any
"""What a data iterator yields; only the forward step looks into it."""


class Microbatches:
    """What one model part's forward step reads.

    Args:
        data_iterator: the caller's; None where the part reads no data.
        num_microbatches: of one step.
        num_chunks: how often each microbatch is read.
    """

    def __init__(
        self, data_iterator: Iterator[Batch] | None, *, num_microbatches: int, num_chunks: int
    ) -> None:
        self._data_iterator = data_iterator
        self._num_microbatches = num_microbatches
        self._num_chunks = num_chunks
        self._open: dict[int, Batch] = {}
        self._num_taken = 0

    def reader(self, microbatch: int, chunk: int) -> Iterator[Batch] | None:
        """What the forward step of one chunk gets as its data iterator; it yields the whole microbatch once.

        Raises, when read:
            DataError: the data iterator has ended.
            ConfigurationError: the forward step asks for a second batch.
        """
        if self._data_iterator is None:
            return None
        return self._read_once(microbatch, chunk)

    def _read_once(self, microbatch: int, chunk: int) -> Iterator[Batch]:
        if microbatch not in self._open:
            self._take(microbatch)
        if chunk == self._num_chunks - 1:
            yield self._open.pop(microbatch)
        else:
            yield self._open[microbatch]
        raise ConfigurationError(
            f"the forward step asked for a second batch for microbatch {microbatch}; chunked schedules "
            "give each forward step one batch: join what belongs together in the data iterator"
        )

    def _take(self, microbatch: int) -> None:
        assert self._data_iterator is not None
        if microbatch != self._num_taken:
            raise StepError(
                f"microbatch {microbatch} is wanted, but the data iterator has delivered "
                f"{self._num_taken}: a forward step must read a batch for every microbatch or for none"
            )
        try:
            self._open[microbatch] = next(self._data_iterator)
        except StopIteration:
            raise DataError(
                f"the data iterator ended after {self._num_taken} of the {self._num_microbatches} "
                "microbatches of a step; stop before a step that it cannot fill, or repeat the data"
            ) from None
        self._num_taken += 1
