"""How long messages between neighbouring stages take, over the channels that a run uses.

Stage s sends a message forward, and stage s + 1 sends one of the same size back; half of that is one
message's time. Links 0-1, 2-3, ... are timed together, then 1-2, 3-4, ..., in all pipelines at once:
no process has more than one link at a time, and links that share a cable share it as in a run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from megatron.seq1f1b.runtime.channels import Channels
from megatron.seq1f1b.schedule import Channel


@dataclass(frozen=True, kw_only=True)
class LinkTimes:
    """The messages between two neighbouring stages of one pipeline, by global rank."""

    source: int
    destination: int
    seconds: dict[int, float]
    """Median one-way seconds of a message, by its bytes."""

    @property
    def latency_seconds(self) -> float:
        """Of the smallest message."""
        return self.seconds[min(self.seconds)]

    @property
    def bytes_per_second(self) -> float:
        """Further bytes of the largest message over the further time that it takes than the smallest."""
        smallest, largest = min(self.seconds), max(self.seconds)
        more = self.seconds[largest] - self.seconds[smallest]
        return (largest - smallest) / (more if more > 0 else self.seconds[largest])


def time_links(
    group: dist.ProcessGroup, *, num_bytes: Sequence[int], repeats: int, device: torch.device
) -> list[LinkTimes]:
    """The links of this process to the next stage: one, or none on the last stage. Collective.

    Args:
        group: the pipeline's.
        num_bytes: sizes of messages, two or more different ones.
        repeats: messages of each size that are timed, after as many that are not.
        device: where the messages lie.
    """
    stage, stages = dist.get_rank(group), dist.get_world_size(group)
    ends = [(first, first + 1) for first in range(stages - 1)]
    forward = {(first, second): Channel(first, second, is_forward=True) for first, second in ends}
    backward = {(first, second): Channel(second, first, is_forward=False) for first, second in ends}
    channels = Channels([*forward.values(), *backward.values()], pipeline_group=group)
    found = []
    for parity in (0, 1):
        dist.barrier()
        for first, second in ends:
            if first % 2 != parity or stage not in (first, second):
                continue
            pair = (first, second)
            seconds = {
                size: _time(channels, forward[pair], backward[pair], stage, size, repeats, device)
                for size in sorted(set(num_bytes))
            }
            if stage == first:
                ranks = dist.get_process_group_ranks(group)
                found.append(LinkTimes(source=ranks[first], destination=ranks[second], seconds=seconds))
    dist.barrier()
    channels.close()
    return found


def _time(
    channels: Channels,
    forward: Channel,
    backward: Channel,
    stage: int,
    size: int,
    repeats: int,
    device: torch.device,
) -> float:
    """Median one-way seconds of messages of one size."""
    message, buffer = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
    taken = []
    for _ in range(2 * repeats):
        started_at = time.perf_counter()
        if stage == forward.source:
            channels.send(forward, message, what="a timed message")
            channels.post_receive(backward, buffer, what="its answer").wait()
        else:
            channels.post_receive(forward, buffer, what="a timed message").wait()
            channels.send(backward, message, what="its answer")
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append((time.perf_counter() - started_at) / 2)
    channels.drain()
    return statistics.median(taken[repeats:])
