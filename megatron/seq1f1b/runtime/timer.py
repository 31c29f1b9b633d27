"""Times of every compute action of a rank, for profiles, timelines and benchmarks."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable

import torch
import torch.distributed as dist

from megatron.seq1f1b.schedule import Action, ActionKind

ActionSeconds = dict[tuple[ActionKind, int, int], float]
"""Seconds by (kind, virtual stage, chunk)."""

Average = Callable[[list[float]], float]
"""Makes one figure of several measurements."""


class ActionTimer:
    """An observer that keeps the seconds of compute actions."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[ActionKind, int, int], list[float]] = defaultdict(list)
        self._started_at = 0.0
        self._is_cuda = torch.cuda.is_available()

    def begin(self, action: Action) -> None:
        """Waiting is not timed."""

    def arrived(self, action: Action) -> None:
        """A compute action starts."""
        self._started_at = self._now()

    def end(self, action: Action) -> None:
        """Keep a compute action's seconds."""
        if action.kind.is_compute:
            key = (action.kind, action.virtual_stage, action.chunk)
            self._seconds[key].append(self._now() - self._started_at)

    def _now(self) -> float:
        """Seconds; on CUDA once the device has done what it was given."""
        if self._is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def clear(self) -> None:
        """Forget what was timed so far."""
        self._seconds.clear()

    def gathered(self, average: Average = statistics.median) -> ActionSeconds:
        """An average over all actions and replicas, equal on every process; one collective.

        The median of few measurements forgets disturbances; the mean is what a step adds up.
        """
        everyone: list[dict[tuple[ActionKind, int, int], list[float]]] = [
            {} for _ in range(dist.get_world_size())
        ]
        dist.all_gather_object(everyone, dict(self._seconds))
        together: dict[tuple[ActionKind, int, int], list[float]] = defaultdict(list)
        for seconds in everyone:
            for key, taken in seconds.items():
                together[key].extend(taken)
        return {key: average(taken) for key, taken in together.items()}
