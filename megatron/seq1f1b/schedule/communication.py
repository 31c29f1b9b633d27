"""Communication as a pass over a compute plan: every send and receive, placed.

A directed channel joins two pipeline ranks in one direction of the computation (activations
forward, gradients backward). Messages carry no tags: the n-th receive of a channel takes the n-th
send. So a sender sends as soon as it has computed, and the receiver posts its receives in exactly
that order, early enough for each to be waiting when its message is wanted:

    rank 0   0F0.0 0SEND_F0.0 0F0.1 0SEND_F0.1
    rank 1   1RECV_F0.0 1RECV_F0.1 1F0.0 1F0.1
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from megatron.seq1f1b.errors import PlanError
from megatron.seq1f1b.schedule.action import Action, ActionKind
from megatron.seq1f1b.schedule.plan import Plan

F, B, I = ActionKind.F, ActionKind.B, ActionKind.I  # noqa: E741
SEND_F, RECV_F, SEND_B, RECV_B = (
    ActionKind.SEND_F,
    ActionKind.RECV_F,
    ActionKind.SEND_B,
    ActionKind.RECV_B,
)


class Channel(NamedTuple):
    """Messages of one direction from one pipeline rank to another, delivered in order."""

    source: int
    destination: int
    is_forward: bool

    def __str__(self) -> str:
        what = "activations" if self.is_forward else "gradients"
        return f"{what} from rank {self.source} to rank {self.destination}"


def send_after(action: Action, plan: Plan) -> Action | None:
    """The send that follows a compute action, or None where its result stays on the rank."""
    kind, virtual_stage, microbatch, chunk = action
    if plan.num_stages == 1:
        return None
    if kind is F and virtual_stage < plan.last_virtual_stage:
        return Action(SEND_F, virtual_stage, microbatch, chunk)
    if (kind is B or kind is I) and virtual_stage > 0:
        return Action(SEND_B, virtual_stage, microbatch, chunk)
    return None


def receive_of(send: Action) -> Action:
    """The receive that takes a send's message, on the neighbouring virtual stage."""
    kind, virtual_stage, microbatch, chunk = send
    if kind is SEND_F:
        return Action(RECV_F, virtual_stage + 1, microbatch, chunk)
    return Action(RECV_B, virtual_stage - 1, microbatch, chunk)


def receive_before(action: Action, plan: Plan) -> Action | None:
    """The receive whose message a compute action consumes, or None where it needs none."""
    kind, virtual_stage, microbatch, chunk = action
    if plan.num_stages == 1:
        return None
    if kind is F and virtual_stage > 0:
        return Action(RECV_F, virtual_stage, microbatch, chunk)
    if (kind is B or kind is I) and virtual_stage < plan.last_virtual_stage:
        return Action(RECV_B, virtual_stage, microbatch, chunk)
    return None


def channel_of(action: Action, plan: Plan) -> Channel:
    """The channel that a send or a receive uses."""
    kind, virtual_stage = action.kind, action.virtual_stage
    here = plan.rank_of(virtual_stage)
    if kind is SEND_F:
        return Channel(here, plan.rank_of(virtual_stage + 1), True)
    if kind is SEND_B:
        return Channel(here, plan.rank_of(virtual_stage - 1), False)
    if kind is RECV_F:
        return Channel(plan.rank_of(virtual_stage - 1), here, True)
    assert kind is RECV_B, f"{action} does not communicate"
    return Channel(plan.rank_of(virtual_stage + 1), here, False)


def with_communication(plan: Plan) -> Plan:
    """The plan as an executor wants it: with its messages, where there is more than one rank.

    Raises:
        PlanError: as `add_communication` does.
    """
    return plan if plan.num_stages == 1 or plan.has_communication else add_communication(plan)


def add_communication(plan: Plan, *, receive_ahead: int = 2) -> Plan:
    """The same plan with a send after every producer and a receive ahead of every consumer.

    A receive is posted `receive_ahead` compute actions before the action that consumes its message
    (at the front where there are fewer), or earlier where the channel's order demands it.

    Raises:
        PlanError: the plan communicates already, `receive_ahead` is negative, or a message that is
            sent is never consumed.
    """
    if receive_ahead < 0:
        raise PlanError(f"receive_ahead {receive_ahead} is negative; use 0 or more")
    if plan.has_communication:
        raise PlanError(f"plan {plan.name!r} has sends and receives already; add them only once")
    sends = [[send_after(action, plan) for action in actions] for actions in plan.actions]
    inbound = _receives_in_send_order(plan, sends)
    return replace(
        plan,
        actions=tuple(
            tuple(_interleave(actions, sends[rank], _posts(plan, rank, inbound[rank], receive_ahead)))
            for rank, actions in enumerate(plan.actions)
        ),
    )


def _receives_in_send_order(
    plan: Plan, sends: list[list[Action | None]]
) -> list[dict[Channel, list[Action]]]:
    """For every rank the receives of each inbound channel, in the order of the sends."""
    inbound: list[dict[Channel, list[Action]]] = [defaultdict(list) for _ in plan.actions]
    for of_rank in sends:
        queues: dict[tuple[ActionKind, int], list[Action]] = {}
        for send in of_rank:
            if send is None:
                continue
            key = send.kind, send.virtual_stage
            if key not in queues:
                channel = channel_of(send, plan)
                queues[key] = inbound[channel.destination][channel]
            queues[key].append(receive_of(send))
    return inbound


def _posts(
    plan: Plan, rank: int, inbound: dict[Channel, list[Action]], receive_ahead: int
) -> dict[int, list[Action]]:
    """The receives to post just before each compute position.

    A message that is consumed later than one sent after it is posted with that one: positions
    within a channel are made ascending from the back.
    """
    consumed_at = {
        receive_before(action, plan): position for position, action in enumerate(plan.actions[rank])
    }
    posts: dict[int, list[Action]] = defaultdict(list)
    for receives in inbound.values():
        latest = len(plan.actions[rank])
        positions = []
        for receive in reversed(receives):
            if receive not in consumed_at:
                raise PlanError(f"rank {rank} never consumes the message of {receive}")
            latest = min(latest, max(0, consumed_at[receive] - receive_ahead))
            positions.append(latest)
        for receive, position in zip(receives, reversed(positions), strict=True):
            posts[position].append(receive)
    return posts


def _interleave(
    actions: Sequence[Action], sends: Sequence[Action | None], posts: dict[int, list[Action]]
) -> Iterator[Action]:
    """One rank's actions with its receives before them and its sends after them."""
    for position, (action, send) in enumerate(zip(actions, sends, strict=True)):
        yield from posts.get(position, ())
        yield action
        if send is not None:
            yield send
