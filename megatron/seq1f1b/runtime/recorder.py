"""When every action of a step began, started and ended, with no synchronisation within the step.

A compute action *begins* when the one before it has ended, *starts* when what it needs has arrived,
and *ends*. On a CPU these are readings of the host's clock. On CUDA the host runs ahead of the
device, so they are events in the device's queue, turned into seconds once, after the step.
"""

from __future__ import annotations

import math
import time
from array import array
from typing import Generic, Protocol, TypeVar

import torch

from megatron.seq1f1b.schedule import Action, Plan

Moment = TypeVar("Moment")
MOMENTS = 3
"""Begin, start and end of an action."""


class Clock(Protocol[Moment]):
    """Takes moments now and tells their seconds later, on the host's `time.perf_counter`."""

    def start(self) -> None:
        """Before the first moment of a step; may wait for the device."""

    def moment(self) -> Moment:
        """Now, in the order of the work; waits for nothing."""

    def seconds(self, moment: Moment) -> float:
        """When the moment was, after the step; may wait for the device."""


class HostClock:
    """Moments of a CPU."""

    def start(self) -> None:
        """Nothing to prepare."""

    def moment(self) -> float:
        """Seconds."""
        return time.perf_counter()

    def seconds(self, moment: float) -> float:
        """The moment itself."""
        return moment


class DeviceClock:
    """Moments of the current CUDA stream: the waits for messages stand in it, and so do its events.

    One event is recorded on the idle device at a known time of the host; all others count from it.
    """

    def __init__(self) -> None:
        self._zero = torch.cuda.Event(enable_timing=True)
        self._zero_seconds = 0.0

    def start(self) -> None:
        """Tie the device's time to the host's."""
        torch.cuda.synchronize()
        self._zero = self.moment()
        self._zero_seconds = time.perf_counter()

    def moment(self) -> torch.cuda.Event:
        """An event behind the work that the stream was given so far."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, moment: torch.cuda.Event) -> float:
        """When the device came to the event."""
        moment.synchronize()
        return self._zero_seconds + self._zero.elapsed_time(moment) / 1e3


class ActionRecorder(Generic[Moment]):
    """An observer that keeps the moments of one step's actions."""

    def __init__(self, clock: Clock[Moment]) -> None:
        self._clock = clock
        self._moments: dict[Action, list[Moment]] = {}

    def start(self) -> None:
        """Forget the last step; a new one is about to run."""
        self._moments.clear()
        self._clock.start()

    def begin(self, action: Action) -> None:
        """The action is next."""
        self._moments[action] = [self._clock.moment()]

    def arrived(self, action: Action) -> None:
        """What it needs is there."""
        self._moments[action].append(self._clock.moment())

    def end(self, action: Action) -> None:
        """The action is done."""
        self._moments[action].append(self._clock.moment())

    def seconds(self, plan: Plan, rank: int) -> array[float]:
        """Begin, start and end of each action of a rank in the plan's order, one after another.

        What was not observed is not a number; messages start when they begin.
        """
        seconds = array("d")
        for action in plan.actions[rank]:
            moments = [self._clock.seconds(moment) for moment in self._moments.get(action, [])]
            begin, *_, end = moments or (math.nan, math.nan)
            seconds.extend((begin, moments[1] if len(moments) == MOMENTS else begin, end))
        return seconds
