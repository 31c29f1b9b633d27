"""Sends against receives: on every channel the n-th receive must want the n-th message sent."""

from __future__ import annotations

from array import array

from megatron.seq1f1b.schedule.action import Action, ActionKind
from megatron.seq1f1b.schedule.blame import fail
from megatron.seq1f1b.schedule.communication import Channel, channel_of, receive_of
from megatron.seq1f1b.schedule.plan import Plan

Order = dict[Channel, "array[int]"]
"""For every channel the receives it serves, in order, as numbers."""


def check_channels(plan: Plan) -> None:
    """Compare the order of sends and of receives on every channel.

    Raises:
        PlanError: naming the first receive that would take another message than its own.
    """
    sent, received = _orders(plan)
    for channel in sent.keys() | received.keys():
        sends, receives = sent.get(channel, array("q")), received.get(channel, array("q"))
        if sends == receives:
            continue
        differing = (pair for pair in zip(sends, receives, strict=False) if pair[0] != pair[1])
        send, receive = next(differing)  # the plan is complete, so both have the same length
        _fail_crossed(plan, channel, _receive(plan, channel, send), _receive(plan, channel, receive))


def _orders(plan: Plan) -> tuple[Order, Order]:
    """What is sent and what is received on every channel, both as numbers of receives."""
    sent: Order = {}
    received: Order = {}
    microbatches, chunks = plan.num_microbatches, plan.num_chunks
    for actions in plan.actions:
        serving: dict[tuple[ActionKind, int], tuple[array[int], int]] = {}
        for action in actions:
            kind, virtual_stage, microbatch, chunk = action
            if kind.is_compute:
                continue
            if (kind, virtual_stage) not in serving:
                order = sent if kind.is_send else received
                receiver = receive_of(action).virtual_stage if kind.is_send else virtual_stage
                numbers = order.setdefault(channel_of(action, plan), array("q"))
                serving[kind, virtual_stage] = numbers, receiver
            numbers, receiver = serving[kind, virtual_stage]
            numbers.append((receiver * microbatches + microbatch) * chunks + chunk)
    return sent, received


def _receive(plan: Plan, channel: Channel, number: int) -> Action:
    number, chunk = divmod(number, plan.num_chunks)
    virtual_stage, microbatch = divmod(number, plan.num_microbatches)
    kind = ActionKind.RECV_F if channel.is_forward else ActionKind.RECV_B
    return Action(kind, virtual_stage, microbatch, chunk)


def _fail_crossed(plan: Plan, channel: Channel, due: Action, posted: Action) -> None:
    position = plan.actions[channel.destination].index(posted)
    fail(
        plan,
        {channel.destination: position},
        f"the channel of {channel} delivers in order, and the message due here is that of {due}; "
        "post receives in the order of the sends",
    )
