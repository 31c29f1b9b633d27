"""The simulator's channels: when each message arrives."""

from __future__ import annotations

from array import array
from collections import deque

from megatron.seq1f1b.schedule.action import Action, ActionKind
from megatron.seq1f1b.schedule.communication import Channel, channel_of
from megatron.seq1f1b.schedule.costs import Costs
from megatron.seq1f1b.schedule.dependencies import Result, exists, number_of
from megatron.seq1f1b.schedule.plan import Plan

_KINDS = {
    Result.SENT_OUTPUT: ActionKind.SEND_F,
    Result.SENT_GRAD: ActionKind.SEND_B,
    Result.POSTED_OUTPUT: ActionKind.RECV_F,
    Result.POSTED_GRAD: ActionKind.RECV_B,
}


class _Wire:
    """State of one channel: what was sent and posted but not yet matched, and until when it is busy."""

    __slots__ = ("busy_until", "posted", "sent")

    def __init__(self) -> None:
        self.sent: deque[tuple[float, int, int]] = deque()
        self.posted: deque[float] = deque()
        self.busy_until = 0.0


class Network:
    """Matches the n-th send of a channel with its n-th receive and writes the time of arrival."""

    def __init__(self, plan: Plan, costs: Costs, ready_at: array[float]) -> None:
        self._ready_at = ready_at
        self._latency = costs.latency_seconds
        self._transfers = [costs.transfer_seconds(chunk) for chunk in range(plan.num_chunks)]
        self._waits_for_posts = plan.has_communication
        self._num_per_result = number_of(plan, 1, 0, 0)
        self.first_message = number_of(plan, Result.SENT_OUTPUT, 0, 0)
        """Numbers from here on are messages sent or posted, not results computed."""
        wires: dict[Channel, _Wire] = {}
        self._wires: dict[int, list[_Wire | None]] = {
            result: [
                wires.setdefault(channel_of(Action(kind, virtual_stage, 0, 0), plan), _Wire())
                if exists(plan, result, virtual_stage)
                else None
                for virtual_stage in range(plan.num_all_virtual_stages)
            ]
            for result, kind in _KINDS.items()
        }

    def communicate(self, number: int, virtual_stage: int, chunk: int, now: float) -> None:
        """Note that a message was sent, or its receive posted; deliver what has become complete."""
        result = number // self._num_per_result
        wire = self._wires[result][virtual_stage]
        assert wire is not None, "a message to nowhere is never produced"
        if result <= Result.SENT_GRAD:
            wire.sent.append((now, number, chunk))
            if not self._waits_for_posts:
                wire.posted.append(0.0)
        else:
            wire.posted.append(now)
        while wire.sent and wire.posted:
            self._deliver(wire)

    def _deliver(self, wire: _Wire) -> None:
        sent_at, number, chunk = wire.sent.popleft()
        leaves_at = max(sent_at, wire.posted.popleft(), wire.busy_until)
        wire.busy_until = leaves_at + self._transfers[chunk]
        self._ready_at[number] = wire.busy_until + self._latency
