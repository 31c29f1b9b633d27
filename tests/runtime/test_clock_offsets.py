"""Clocks of processes: one on one machine, aligned by round trips between machines."""

from __future__ import annotations

import time

import pytest
import torch.distributed as dist

from megatron.seq1f1b.runtime.clock_offsets import ClockOffset, clock_offsets
from tests.harness import run_distributed

AHEAD = {0: 0.0, 1: 0.0, 2: 1000.0, 3: 1000.0}
"""Seconds by which each rank's clock is ahead: two machines of two."""


def offsets_of_two_machines() -> list[ClockOffset]:
    rank = dist.get_rank()
    return clock_offsets(machine=f"machine {rank // 2}", now=lambda: time.perf_counter() + AHEAD[rank])


def offsets_of_one_machine() -> list[ClockOffset]:
    return clock_offsets()


def test_processes_of_one_machine_read_one_clock() -> None:
    for offsets in run_distributed(offsets_of_one_machine, 2):
        assert offsets == [ClockOffset(seconds=0.0, uncertain_seconds=0.0, machine=0)] * 2


def test_the_offset_between_machines_is_found_to_within_half_a_round_trip() -> None:
    everyone = run_distributed(offsets_of_two_machines, 4)
    assert all(offsets == everyone[0] for offsets in everyone)
    own, other = everyone[0][:2], everyone[0][2:]
    assert [offset.seconds for offset in own] == [0.0, 0.0]
    assert [offset.machine for offset in (*own, *other)] == [0, 0, 1, 1]
    for offset in other:
        assert offset.seconds == pytest.approx(-1000.0, abs=offset.uncertain_seconds)
        assert 0.0 < offset.uncertain_seconds < 1.0
