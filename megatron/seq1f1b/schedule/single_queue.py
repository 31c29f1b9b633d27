"""Whether a plan comes to its end on a device that starts all work from one queue.

With CUDA_DEVICE_MAX_CONNECTIONS=1, as tensor parallelism recommends, kernels start in the order in
which the host issued them, and one that cannot start yet holds back all behind it. The model here is
stricter than a device: a message is through once the kernels of both its ends have started, a
channel's next kernel starts when its last message is through, and a computation starts when its
messages are. Receives are issued one ahead per channel, as `runtime/channels.py` does: issued further
ahead they would wait for each other at the head of the queue, and hold back the very send that the
other end waits for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from enum import Enum, auto
from typing import NamedTuple

from megatron.seq1f1b.schedule.action import Action
from megatron.seq1f1b.schedule.communication import Channel, channel_of, receive_before
from megatron.seq1f1b.schedule.plan import Plan


class _Kind(Enum):
    SEND = auto()
    RECEIVE = auto()
    WAIT = auto()


class _Kernel(NamedTuple):
    """One end of a channel's n-th message, or a computation's wait for it."""

    kind: _Kind
    channel: Channel
    number: int
    action: Action


def stuck_in_one_queue(plan: Plan) -> list[str]:
    """The actions at which the ranks' queues stand still for good; none where the plan ends.

    Args:
        plan: with its communication, validated.
    """
    queues = [list(_kernels(plan, actions)) for actions in plan.actions]
    heads = [0 for _ in queues]
    started: dict[tuple[_Kind, Channel], int] = defaultdict(int)
    through: dict[Channel, int] = defaultdict(int)
    is_moving = True
    while is_moving:
        is_moving = False
        for rank, queue in enumerate(queues):
            while heads[rank] < len(queue) and _can_start(queue[heads[rank]], through):
                kind, channel, number, _ = queue[heads[rank]]
                started[kind, channel] = number + 1
                both = min(started[_Kind.SEND, channel], started[_Kind.RECEIVE, channel])
                through[channel] = both
                heads[rank] += 1
                is_moving = True
    return [str(queue[head].action) for queue, head in zip(queues, heads, strict=True) if head < len(queue)]


def _can_start(kernel: _Kernel, through: dict[Channel, int]) -> bool:
    if kernel.kind is _Kind.WAIT:
        return through[kernel.channel] > kernel.number
    return through[kernel.channel] >= kernel.number


def _kernels(plan: Plan, actions: tuple[Action, ...]) -> Iterator[_Kernel]:
    """What a rank issues, in order, computations left out that need no message."""
    sent: dict[Channel, int] = defaultdict(int)
    posted: dict[Channel, list[Action]] = defaultdict(list)
    issued: dict[Channel, int] = defaultdict(int)
    waited: dict[Channel, int] = defaultdict(int)

    def issue(channel: Channel, until: int) -> Iterator[_Kernel]:
        while issued[channel] < min(until, len(posted[channel])):
            number = issued[channel]
            yield _Kernel(_Kind.RECEIVE, channel, number, posted[channel][number])
            issued[channel] += 1

    for action in actions:
        if action.kind.is_compute:
            receive = receive_before(action, plan)
            if receive is None:
                continue
            channel = channel_of(receive, plan)
            number = posted[channel].index(receive, max(0, waited[channel] - 1))
            yield from issue(channel, number + 1)
            yield _Kernel(_Kind.WAIT, channel, number, action)
            waited[channel] += 1
            yield from issue(channel, waited[channel] + 1)
            continue
        channel = channel_of(action, plan)
        if action.kind.is_send:
            yield _Kernel(_Kind.SEND, channel, sent[channel], action)
            sent[channel] += 1
        else:
            posted[channel].append(action)
            yield from issue(channel, waited[channel] + 1)
