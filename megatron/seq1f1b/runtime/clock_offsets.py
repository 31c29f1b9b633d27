"""How far the clocks of all processes are apart.

Processes of one machine read one clock. Between machines, rank 0 and one process of each other
machine exchange messages: the answer's time of the peer is taken to be the middle of the round trip
on rank 0, and of several round trips the shortest counts, which errs by at most half of it.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_ROUND_TRIPS = 16


@dataclass(frozen=True, kw_only=True)
class ClockOffset:
    """Of one process to rank 0."""

    seconds: float
    """To add to the process's clock."""
    uncertain_seconds: float
    """By which that may be wrong; 0 where the clock is the same one."""
    machine: int
    """Machines are numbered by their lowest rank."""


def this_machine() -> str:
    """What tells machines apart: containers of one machine share its clock and its boot."""
    return _BOOT.read_text().strip() if _BOOT.exists() else socket.gethostname()


def clock_offsets(
    *, machine: str | None = None, now: Callable[[], float] = time.perf_counter
) -> list[ClockOffset]:
    """The offset of every process, equal everywhere; collective over all of them."""
    machines: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(machines, this_machine() if machine is None else machine)
    leaders = sorted({name: rank for rank, name in reversed(list(enumerate(machines)))}.values())
    measured = [_measure(leaders, now)]
    dist.broadcast_object_list(measured, src=0)
    by_machine = {machines[leader]: (number, measured[0][number]) for number, leader in enumerate(leaders)}
    offsets = []
    for name in machines:
        number, (seconds, uncertain) = by_machine[name]
        offsets.append(ClockOffset(seconds=seconds, uncertain_seconds=uncertain, machine=number))
    return offsets


def _measure(leaders: list[int], now: Callable[[], float]) -> list[tuple[float, float]]:
    """On rank 0: seconds to add and half of the shortest round trip, for each leader's clock."""
    if len(leaders) == 1:
        return [(0.0, 0.0)]
    # Host to host, whatever carries the tensors of the training.
    group = dist.new_group(leaders, backend="gloo")
    found = [(0.0, 0.0)]
    for leader in leaders[1:]:
        if dist.get_rank() == 0:
            found.append(min((_ask(leader, group, now) for _ in range(_ROUND_TRIPS)), key=lambda one: one[1]))
        elif dist.get_rank() == leader:
            for _ in range(_ROUND_TRIPS):
                _answer(group, now)
    if dist.get_rank() in leaders:
        dist.destroy_process_group(group)
    return found


def _ask(peer: int, group: object, now: Callable[[], float]) -> tuple[float, float]:
    """(seconds to add to the peer's clock, half of the round trip)."""
    there = torch.zeros(1, dtype=torch.float64)
    sent_at = now()
    dist.send(there, peer, group=group)  # type: ignore[arg-type]
    dist.recv(there, peer, group=group)  # type: ignore[arg-type]
    half = (now() - sent_at) / 2.0
    return sent_at + half - float(there), half


def _answer(group: object, now: Callable[[], float]) -> None:
    question = torch.zeros(1, dtype=torch.float64)
    dist.recv(question, 0, group=group)  # type: ignore[arg-type]
    dist.send(torch.tensor([now()], dtype=torch.float64), 0, group=group)  # type: ignore[arg-type]
