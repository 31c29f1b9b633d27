"""Plans come to their end on devices that start all work from one queue."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from megatron.seq1f1b.schedule import add_communication, make_plan
from megatron.seq1f1b.schedule.single_queue import stuck_in_one_queue

COUNTS = list(product((2, 3, 4, 8), (1, 2, 5, 8), (1, 2, 3, 4, 8)))


def stuck(name: str, virtual_stages: int, *, forward_only: bool) -> list[tuple[int, int, int]]:
    """(stages, microbatches, chunks) for which a schedule stands still."""
    found = []
    for stages, microbatches, chunks in COUNTS:
        plan = make_plan(
            name,
            stages=stages,
            microbatches=microbatches,
            chunks=chunks,
            virtual_stages=virtual_stages,
            forward_only=forward_only,
        )
        if stuck_in_one_queue(add_communication(plan)):
            found.append((stages, microbatches, chunks))
    return found


@pytest.mark.parametrize("forward_only", [False, True])
@pytest.mark.parametrize("name", ["seq1f1b", "seq1f1b-zb"])
def test_schedules_without_virtual_stages_always_end(name: str, forward_only: bool) -> None:
    assert stuck(name, 1, forward_only=forward_only) == []


@pytest.mark.parametrize("forward_only", [False, True])
def test_with_virtual_stages_they_end_where_groups_have_as_many_chunks_as_there_are_stages(
    forward_only: bool,
) -> None:
    for stages, microbatches, chunks in stuck("seq1f1b-interleaved", 2, forward_only=forward_only):
        assert stages % chunks or microbatches % (stages // chunks)


def test_queues_that_stand_still_name_their_actions() -> None:
    plan = make_plan("seq1f1b-interleaved", stages=2, microbatches=2, chunks=8, virtual_stages=2)
    assert stuck_in_one_queue(add_communication(plan)) == ["0SEND_F0.4", "1SEND_F0.1"]


def test_a_lost_send_stands_still() -> None:
    plan = add_communication(make_plan("seq1f1b", stages=2, microbatches=1, chunks=1))
    first = tuple(action for action in plan.actions[0] if not action.kind.is_send)
    assert "1F0.0" in stuck_in_one_queue(replace(plan, actions=(first, plan.actions[1])))
