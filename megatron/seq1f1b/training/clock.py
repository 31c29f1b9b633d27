"""Clocks of a step: its phases, and how long it waits for data."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise
from typing import TypeVar

import torch

from megatron.seq1f1b.upstream import is_cpu_only

Item = TypeVar("Item")


class PhaseClock:
    """Seconds between marks: of the device where there is one, without waiting for it at a mark."""

    def __init__(self) -> None:
        """The first phase begins."""
        self._marks: list[float | torch.cuda.Event] = []
        self.mark()

    def mark(self) -> None:
        """A phase ends here, and the next one begins."""
        if is_cpu_only():
            self._marks.append(time.perf_counter())
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._marks.append(event)

    def seconds(self) -> list[float]:
        """Seconds of every phase; the device must have passed the last mark, or is waited for."""
        if not is_cpu_only():
            self._marks[-1].synchronize()  # type: ignore[union-attr]
        return [_between(first, second) for first, second in pairwise(self._marks)]


def _between(first: float | torch.cuda.Event, second: float | torch.cuda.Event) -> float:
    if isinstance(first, float) and isinstance(second, float):
        return second - first
    assert isinstance(first, torch.cuda.Event)
    assert isinstance(second, torch.cuda.Event)
    return first.elapsed_time(second) / 1e3


class TimedIterator(Iterator[Item]):
    """An iterator that knows how long its caller has waited for it."""

    def __init__(self, iterator: Iterator[Item]) -> None:
        self._iterator = iterator
        self._seconds = 0.0

    def __next__(self) -> Item:
        started_at = time.perf_counter()
        try:
            return next(self._iterator)
        finally:
            self._seconds += time.perf_counter() - started_at

    def take_seconds(self) -> float:
        """Seconds waited since this was asked last."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds
