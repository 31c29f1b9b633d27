"""Point-to-point channels between neighbouring pipeline ranks, one per pair and direction.

Every (source, destination, direction) has a process group of its own. Messages of one channel
arrive in the order in which they were sent, and no message of one channel waits for another
channel: activations forward and gradients backward cannot block or overtake each other, also
where the previous and the next rank are the same one. That is all that the plan's validator
assumes, so a plan that it accepts cannot deadlock here.

Sends and receives return at once. A receive is posted ahead into a buffer of known shape; a sent
tensor is kept alive until its message has left, and is dropped as soon as it has.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist

from megatron.seq1f1b.errors import StepError, first_line
from megatron.seq1f1b.runtime.in_flight import Send, in_flight_for
from megatron.seq1f1b.schedule import Channel
from megatron.seq1f1b.upstream.parallel import timeout_of


@dataclass(frozen=True, kw_only=True)
class Receive:
    """A receive that has been posted; `tensor` is valid once `wait` has returned."""

    tensor: torch.Tensor
    work: dist.Work
    what: str

    def wait(self) -> torch.Tensor:
        """The received tensor.

        Raises:
            StepError: the peer did not send in time or is gone; names it.
        """
        try:
            self.work.wait()
        except RuntimeError as error:
            raise StepError(f"waited for {self.what}, and nothing arrived: {first_line(error)}") from error
        return self.tensor


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
        timeout = timeout_of(pipeline_group)
        for pipeline in _all_pipelines(self._global_ranks):
            for channel in sorted(set(channels)):
                ends = sorted((pipeline[channel.source], pipeline[channel.destination]))
                group = dist.new_group(ends, timeout=timeout)
                if pipeline == self._global_ranks and dist.get_rank() in ends:
                    assert isinstance(group, dist.ProcessGroup)
                    self._groups[channel] = group
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
        work = dist.irecv(buffer, source, group=self._groups[channel])
        assert work is not None
        described = f"{what} from rank {source} (stage {channel.source})"
        return Receive(tensor=buffer, work=work, what=described)

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
