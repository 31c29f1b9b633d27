"""Times of every compute action of a rank, for profiles, timelines and benchmarks."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict

import torch
import torch.distributed as dist

from megatron.seq1f1b.schedule import Action, ActionKind

ActionSeconds = dict[tuple[ActionKind, int, int], float]
"""Seconds by (kind, virtual stage, chunk)."""


class ActionTimer:
    """An observer that keeps the seconds of compute actions."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[ActionKind, int, int], list[float]] = defaultdict(list)
        self._is_cuda = torch.cuda.is_available()

    def now(self) -> float:
        """Seconds; on CUDA once the device has done what it was given."""
        if self._is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def observe(self, action: Action, started_at: float, ended_at: float) -> None:
        """Keep a compute action's seconds."""
        if action.kind.is_compute:
            key = (action.kind, action.virtual_stage, action.chunk)
            self._seconds[key].append(ended_at - started_at)

    def clear(self) -> None:
        """Forget what was timed so far."""
        self._seconds.clear()

    def gathered(self) -> ActionSeconds:
        """Medians over all actions and replicas, equal on every process; one collective."""
        everyone: list[dict[tuple[ActionKind, int, int], list[float]]] = [
            {} for _ in range(dist.get_world_size())
        ]
        dist.all_gather_object(everyone, dict(self._seconds))
        together: dict[tuple[ActionKind, int, int], list[float]] = defaultdict(list)
        for seconds in everyone:
            for key, taken in seconds.items():
                together[key].extend(taken)
        return {key: statistics.median(taken) for key, taken in together.items()}
