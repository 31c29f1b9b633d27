"""Lets an observer watch Megatron-Core's own schedule functions, through the timers that they call.

`config.timers` is Megatron-Core's own hook: its schedules start and stop a named timer around every
forward, backward and message. Which action it is follows from the plan of the same name, whose order
is theirs. Their messages block: a call that also receives counts as the wait of the next action.
"""

from __future__ import annotations

from collections.abc import Iterator

from megatron.seq1f1b.runtime.executor import Observer
from megatron.seq1f1b.schedule import Action, ActionKind, Plan, send_after

_COMPUTE = {"forward-compute": ActionKind.F, "backward-compute": ActionKind.B}


class ObservedTimers:
    """What to set as `config.timers` for one step of a rank; `plan` is that of the schedule."""

    def __init__(self, observer: Observer, plan: Plan, rank: int) -> None:
        self._observer = observer
        self._plan = plan
        self._actions: Iterator[Action] = iter(a for a in plan.actions[rank] if a.kind.is_compute)
        self._next = next(self._actions, None)
        self._last: Action | None = None
        self._is_begun = False

    def __call__(self, name: str, log_level: int | None = None) -> _Timer:
        """The timer of that name, as Megatron-Core asks for it."""
        return _Timer(self, name)

    def start(self, name: str) -> None:
        """A forward, a backward or a message is about to start."""
        if name in _COMPUTE:
            self._begin()
            self._observer.arrived(self._expected(name))
        elif "recv" in name:
            self._begin()
        elif "-send" in name and (send := self._send()) is not None:
            self._observer.begin(send)

    def stop(self, name: str) -> None:
        """It is over."""
        if name in _COMPUTE:
            self._last = self._expected(name)
            self._observer.end(self._last)
            self._next, self._is_begun = next(self._actions, None), False
        elif "recv" not in name and "-send" in name and (send := self._send()) is not None:
            self._observer.end(send)

    def _begin(self) -> None:
        if self._next is not None and not self._is_begun:
            self._observer.begin(self._next)
            self._is_begun = True

    def _expected(self, name: str) -> Action:
        action = self._next
        assert action is not None and action.kind is _COMPUTE[name], (
            f"Megatron-Core runs {name} where plan {self._plan.name} has {action}"
        )
        return action

    def _send(self) -> Action | None:
        return None if self._last is None else send_after(self._last, self._plan)


class _Timer:
    """One named timer."""

    def __init__(self, timers: ObservedTimers, name: str) -> None:
        self._timers = timers
        self._name = name

    def start(self, barrier: bool = False) -> None:
        """As Megatron-Core's timers; no barrier, which would change what is timed."""
        self._timers.start(self._name)

    def stop(self, barrier: bool = False) -> None:
        """As Megatron-Core's timers."""
        self._timers.stop(self._name)
