"""Point-to-point channels between neighbouring pipeline ranks, one per pair and direction.

**Order.** Every (source, destination, direction) has a process group of its own, and so a stream of
its own on a GPU. Messages of one channel arrive in the order in which they were sent; they carry no
tags, the n-th receive takes the n-th send, and both ends derive that order from one plan
(`schedule/communication.py`). No message of a channel waits for another channel: activations forward
and gradients backward cannot block or overtake each other, also where the previous and the next rank
are the same one. The host waits for no message. That is all that the plan's validator assumes, so a
plan that it accepts cannot deadlock here.

**One queue.** With CUDA_DEVICE_MAX_CONNECTIONS=1 a device starts kernels in the order in which they
were issued, and one that cannot start yet holds back all behind it. A channel's next receive cannot
start before its last one is through, so receives are *issued* one ahead: posted as early as the plan
says, but given to the device when the receive before has been waited for. It then proceeds behind
the computation on the message before. `schedule/single_queue.py` decides under that rule whether a
plan comes to its end: those without virtual stages do, others are refused where they would not.

**Buffers.** Message shapes follow from the plan, so nothing is negotiated on the wire; a receive goes
into a buffer that is kept from step to step (`messages.py`). A sent tensor is kept alive until its
message has left (`in_flight.py`), and is dropped as soon as it has.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from megatron.seq1f1b.errors import StepError, first_line
from megatron.seq1f1b.runtime.in_flight import Send, in_flight_for
from megatron.seq1f1b.schedule import Channel
from megatron.seq1f1b.upstream.parallel import timeout_of


class Receive:
    """A receive that has been posted; its tensor is valid once `wait` has returned."""

    def __init__(self, inbox: _Inbox, tensor: torch.Tensor, what: str) -> None:
        self._inbox = inbox
        self._tensor = tensor
        self._what = what
        self._work: dist.Work | None = None

    def wait(self) -> torch.Tensor:
        """The received tensor; on a GPU for what the current stream does from now on.

        Raises:
            StepError: the peer did not send in time or is gone; names it.
        """
        self._inbox.issue_until(self)
        assert self._work is not None
        with self._peer_named():
            self._work.wait()
        self._inbox.issue_next()
        return self._tensor

    def issue(self, source: int, group: dist.ProcessGroup) -> None:
        """Give the receive to the device."""
        with self._peer_named():
            self._work = dist.irecv(self._tensor, source, group=group)

    @contextmanager
    def _peer_named(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise StepError(f"waited for {self._what}, and nothing arrived: {first_line(error)}") from error

    @property
    def is_issued(self) -> bool:
        """Whether the device knows of it."""
        return self._work is not None


class _Inbox:
    """Receives of one channel that are posted and not yet issued, in order."""

    def __init__(self, source: int, group: dist.ProcessGroup) -> None:
        self._source = source
        self._group = group
        self._posted: deque[Receive] = deque()
        self._num_unwaited = 0

    def post(self, receive: Receive) -> None:
        self._posted.append(receive)
        if self._num_unwaited == 0:
            self._issue()

    def issue_until(self, receive: Receive) -> None:
        """Issue what must precede a wait for `receive`, and it."""
        while not receive.is_issued:
            self._issue()

    def issue_next(self) -> None:
        """An issued receive has been waited for."""
        self._num_unwaited -= 1
        if self._num_unwaited == 0 and self._posted:
            self._issue()

    def _issue(self) -> None:
        self._posted.popleft().issue(self._source, self._group)
        self._num_unwaited += 1


class Channels:
    """The channels of one pipeline rank.

    Creating them is collective over *all* processes, those of other pipelines included: process
    groups are made in one order everywhere, each by every process. Every channel is used once
    right away, so that NCCL's lazy connection set-up cannot deadlock inside a step.
    """

    def __init__(self, channels: Iterable[Channel], *, pipeline_group: dist.ProcessGroup) -> None:
        self._global_ranks = dist.get_process_group_ranks(pipeline_group)
        self._rank = dist.get_rank(pipeline_group)
        self._groups: dict[Channel, dist.ProcessGroup] = {}
        self._inboxes: dict[Channel, _Inbox] = {}
        timeout = timeout_of(pipeline_group)
        for pipeline in _all_pipelines(self._global_ranks):
            for channel in sorted(set(channels)):
                ends = sorted((pipeline[channel.source], pipeline[channel.destination]))
                group = dist.new_group(ends, timeout=timeout)
                if pipeline == self._global_ranks and dist.get_rank() in ends:
                    assert isinstance(group, dist.ProcessGroup)
                    self._groups[channel] = group
                    self._inboxes[channel] = _Inbox(self._global_ranks[channel.source], group)
                    self._use_once(channel)
        self._in_flight = in_flight_for(dist.get_backend(pipeline_group))

    def _use_once(self, channel: Channel) -> None:
        group = self._groups[channel]
        token = torch.zeros(1, device="cuda" if dist.get_backend(group) == "nccl" else "cpu")
        if self._rank == channel.source:
            dist.send(token, self._global_ranks[channel.destination], group=group)
        else:
            dist.recv(token, self._global_ranks[channel.source], group=group)

    def post_receive(self, channel: Channel, buffer: torch.Tensor, *, what: str) -> Receive:
        """Post a receive of the channel's next message into `buffer`; `what` names it."""
        source = self._global_ranks[channel.source]
        inbox = self._inboxes[channel]
        receive = Receive(inbox, buffer, f"{what} from rank {source} (stage {channel.source})")
        inbox.post(receive)
        return receive

    def send(self, channel: Channel, tensor: torch.Tensor, *, what: str) -> None:
        """Start sending `tensor` and return; it is kept alive until the message has left."""
        message = tensor.detach().contiguous()
        work = dist.isend(message, self._global_ranks[channel.destination], group=self._groups[channel])
        assert work is not None
        to = f"rank {self._global_ranks[channel.destination]} (stage {channel.destination})"
        described = f"{what} to {to}"
        self._in_flight.add(Send(work=work, message=message, what=described))

    def drain(self) -> None:
        """Wait until every message has left.

        Raises:
            StepError: a message could not be delivered.
        """
        self._in_flight.drain()

    def close(self) -> None:
        """Give the process groups back; collective over each channel's two ends."""
        self.drain()
        self._in_flight.stop()
        for channel in sorted(self._groups):
            dist.destroy_process_group(self._groups.pop(channel))


def _all_pipelines(own: list[int]) -> list[list[int]]:
    """The global ranks of every pipeline of the job, in one order everywhere."""
    everyone: list[list[int]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyone, own)
    return sorted({tuple(ranks): ranks for ranks in everyone}.values())
