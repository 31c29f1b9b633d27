"""Seconds of work on a device: events where it runs beside the processor, else the wall clock."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


class Clock:
    """Times functions on one kind of device, "cuda" or "cpu"."""

    def __init__(self, device: str) -> None:
        self._is_cuda = device == "cuda"

    def seconds(self, work: Callable[[], None]) -> float:
        """From the first to the last thing the device does for `work`."""
        if not self._is_cuda:
            started_at = time.perf_counter()
            work()
            return time.perf_counter() - started_at
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        work()
        last.record()
        last.synchronize()
        return float(first.elapsed_time(last)) / 1e3

    def alternate(
        self, one: Callable[[], None], other: Callable[[], None], *, rounds: int
    ) -> list[tuple[float, float]]:
        """Seconds of both by round, taken in turn after one warm-up of each."""
        self.seconds(one), self.seconds(other)
        return [(self.seconds(one), self.seconds(other)) for _ in range(rounds)]
