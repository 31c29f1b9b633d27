"""The simulator's channels: when each message arrives."""

from __future__ import annotations

from array import array
from collections import deque

from megatron.seq1f1b.schedule.action import Action, ActionKind
from megatron.seq1f1b.schedule.communication import Channel, channel_of
from megatron.seq1f1b.schedule.costs import Costs
from megatron.seq1f1b.schedule.dependencies import Dependencies, Result, exists, first_number

_KINDS = {
    Result.SENT_OUTPUT: ActionKind.SEND_F,
    Result.SENT_GRAD: ActionKind.SEND_B,
    Result.POSTED_OUTPUT: ActionKind.RECV_F,
    Result.POSTED_GRAD: ActionKind.RECV_B,
}


class _Wire:
    """One channel: sends and posted receives that are not yet matched, and until when it is busy."""

    __slots__ = ("busy_until", "posted", "sent")

    def __init__(self) -> None:
        self.sent: deque[int] = deque()
        self.posted: deque[int] = deque()
        self.busy_until = 0.0


class Network:
    """Matches the n-th send of a channel with its n-th receive and writes the time of arrival.

    Sends and receives come as numbers (`dependencies.py`). `ready_at` holds when each was issued;
    a send's entry is replaced by the arrival of its message.
    """

    def __init__(self, dependencies: Dependencies, costs: Costs, ready_at: array[float]) -> None:
        plan = dependencies.plan
        self._ready_at = ready_at
        self._latency = costs.latency_seconds
        self._transfers = [costs.transfer_seconds(chunk) for chunk in range(plan.num_chunks)]
        self._waits_for_posts = dependencies.communicates
        self._per_virtual_stage = first_number(plan, 0, 1)
        self.first_message = first_number(plan, Result.SENT_OUTPUT, 0)
        """Numbers from here on are messages sent or posted, not results computed."""
        self._first_posted = first_number(plan, Result.POSTED_OUTPUT, 0)
        wires: dict[Channel, _Wire] = {}
        self._wires: list[_Wire | None] = [
            wires.setdefault(channel_of(Action(kind, virtual_stage, 0, 0), plan), _Wire())
            if exists(plan, result, virtual_stage)
            else None
            for result, kind in _KINDS.items()
            for virtual_stage in range(plan.num_all_virtual_stages)
        ]

    def communicate(self, number: int) -> None:
        """Take note of a send or a posted receive, and deliver what has become complete."""
        wire = self._wires[(number - self.first_message) // self._per_virtual_stage]
        assert wire is not None, "a message to nowhere is never produced"
        if not self._waits_for_posts:
            self._deliver(wire, number, 0.0)
            return
        (wire.sent if number < self._first_posted else wire.posted).append(number)
        while wire.sent and wire.posted:
            self._deliver(wire, wire.sent.popleft(), self._ready_at[wire.posted.popleft()])

    def _deliver(self, wire: _Wire, number: int, posted_at: float) -> None:
        leaves_at = max(self._ready_at[number], posted_at, wire.busy_until)
        wire.busy_until = leaves_at + self._transfers[number % len(self._transfers)]
        self._ready_at[number] = wire.busy_until + self._latency
