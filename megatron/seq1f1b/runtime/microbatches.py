"""The microbatches of one model part, each handed out once for every chunk.

A microbatch is taken from the data iterator when a forward step first asks for it, so a stage whose
forward step reads nothing takes nothing, and it is forgotten after its last chunk. The n-th batch is
microbatch n: where a plan starts a later microbatch first, those before it are read ahead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from megatron.seq1f1b.errors import ConfigurationError, DataError, StepError

Batch = Any
"""What a data iterator yields; only the forward step looks into it."""


class Microbatches:
    """What one model part's forward step reads.

    Args:
        data_iterator: the caller's; None where the part reads no data.
        starts: the microbatches of one step in the order in which the part starts them.
        num_chunks: how often each microbatch is read.
    """

    def __init__(
        self, data_iterator: Iterator[Batch] | None, *, starts: Sequence[int], num_chunks: int
    ) -> None:
        self._data_iterator = data_iterator
        self._starts = starts
        self._num_chunks = num_chunks
        self._open: dict[int, Batch] = {}
        self._started: set[int] = set()
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
        if microbatch not in self._started:
            self._start(microbatch)
        if chunk == self._num_chunks - 1:
            yield self._open.pop(microbatch)
        else:
            yield self._open[microbatch]
        raise ConfigurationError(
            f"the forward step asked for a second batch for microbatch {microbatch}; chunked schedules "
            "give each forward step one batch: join what belongs together in the data iterator"
        )

    def _start(self, microbatch: int) -> None:
        assert self._data_iterator is not None
        due = self._starts[len(self._started)]
        if microbatch != due:
            raise StepError(
                f"microbatch {microbatch} is wanted, but {due}, which starts before it, has not been read: "
                "a forward step must read a batch for every microbatch or for none"
            )
        self._started.add(microbatch)
        while self._num_taken <= microbatch:
            self._take(self._data_iterator)

    def _take(self, data_iterator: Iterator[Batch]) -> None:
        try:
            self._open[self._num_taken] = next(data_iterator)
        except StopIteration:
            raise DataError(
                f"the data iterator ended after {self._num_taken} of the {len(self._starts)} "
                "microbatches of a step; stop before a step that it cannot fill, or repeat the data"
            ) from None
        self._num_taken += 1
