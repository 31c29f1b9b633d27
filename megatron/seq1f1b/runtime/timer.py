"""Times of every compute action of a rank, for profiles, timelines and benchmarks."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist

from megatron.seq1f1b.schedule import Action, ActionKind

ActionKey = tuple[ActionKind, int, int]
"""Kind, virtual stage, chunk."""

ActionSeconds = dict[ActionKey, float]
"""Seconds of actions, microbatches taken together."""

TimedActions = list[tuple[ActionKey, float]]
"""What one process computed, in its order, and the seconds of each."""

Average = Callable[[list[float]], float]
"""Makes one figure of several measurements."""


class ActionTimer:
    """An observer that keeps the seconds of compute actions."""

    def __init__(self) -> None:
        self._timed: TimedActions = []
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
            self._timed.append((key, self._now() - self._started_at))

    def _now(self) -> float:
        """Seconds; on CUDA once the device has done what it was given."""
        if self._is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def clear(self) -> None:
        """Forget what was timed so far."""
        self._timed = []

    def everyone(self) -> list[TimedActions]:
        """What every process has timed, equal on all of them; one collective."""
        found: list[TimedActions] = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(found, self._timed)
        return found

    def gathered(self, average: Average = statistics.median) -> ActionSeconds:
        """An average over all actions and replicas, equal on every process; one collective."""
        return averaged(self.everyone(), average)


def averaged(everyone: Iterable[TimedActions], average: Average) -> ActionSeconds:
    """One figure per action.

    The median of few measurements forgets disturbances; the mean is what a step adds up.
    """
    together: dict[ActionKey, list[float]] = defaultdict(list)
    for timed in everyone:
        for key, seconds in timed:
            together[key].append(seconds)
    return {key: average(seconds) for key, seconds in together.items()}
