from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from megatron.seq1f1b.errors import PlanError
from megatron.seq1f1b.schedule import Action, Plan, add_communication, make_plan, validate_plan

Edit = Callable[[list[Action]], None]


def edited(plan: Plan, rank: int, edit: Edit) -> Plan:
    rows = [list(actions) for actions in plan.actions]
    edit(rows[rank])
    return replace(plan, actions=tuple(map(tuple, rows)))


def remove(text: str) -> Edit:
    return lambda actions: actions.remove(Action.parse(text))


def append(text: str) -> Edit:
    return lambda actions: actions.append(Action.parse(text))


def swap(first: str, second: str) -> Edit:
    def edit(actions: list[Action]) -> None:
        i, j = actions.index(Action.parse(first)), actions.index(Action.parse(second))
        actions[i], actions[j] = actions[j], actions[i]

    return edit


def move_to(text: str, position: int) -> Edit:
    def edit(actions: list[Action]) -> None:
        actions.insert(position, actions.pop(actions.index(Action.parse(text))))

    return edit


COMPUTE = make_plan("seq1f1b", stages=4, microbatches=4, chunks=2)
SPLIT = make_plan("seq1f1b-zb", stages=4, microbatches=4, chunks=2)
EVALUATION = make_plan("seq1f1b", stages=4, microbatches=4, chunks=2, forward_only=True)
MESSAGES = add_communication(COMPUTE)


@pytest.mark.parametrize("plan", [COMPUTE, SPLIT, EVALUATION, MESSAGES])
def test_whole_plans_pass(plan: Plan) -> None:
    validate_plan(plan)


@pytest.mark.parametrize(
    ("plan", "rank", "edit", "message"),
    [
        (COMPUTE, 1, remove("1F1.1"), "rank 1, position 7, 1F1.1: 1F1.1 is missing; 1B1.1 needs it"),
        (COMPUTE, 2, remove("2B3.0"), "2B3.0 is missing"),
        (SPLIT, 2, remove("2W3.0"), "2W3.0 is missing"),
        (MESSAGES, 1, remove("1RECV_F1.0"), "1RECV_F1.0 is missing"),
        (MESSAGES, 1, remove("1SEND_F1.0"), "2RECV_F1.0: rank 1 never sends it: 1SEND_F1.0 is missing"),
        (COMPUTE, 1, append("1F1.1"), "rank 1, position 16, 1F1.1: it stands at position 3 already"),
        (COMPUTE, 1, append("1W1.0"), r"1B1.0 at position \d+ computes the same"),
        (SPLIT, 1, append("1B1.0"), r"1I1.0 at position \d+ computes the same"),
        (MESSAGES, 1, append("1RECV_F1.0"), r"it stands at position \d+ already"),
        (COMPUTE, 1, append("2F1.0"), "virtual stage 2 lives on rank 2, not on rank 1"),
        (COMPUTE, 1, append("5F1.0"), "no virtual stage 5; the plan has 4"),
        (COMPUTE, 1, append("1F4.0"), "no microbatch 4; the plan has 4"),
        (COMPUTE, 1, append("1F0.2"), "no chunk 2; the plan has 2"),
        (EVALUATION, 1, append("1B0.0"), "a forward-only plan has no backward"),
        (MESSAGES, 3, append("3SEND_F0.0"), "no other rank is at the other end"),
        (MESSAGES, 0, append("0RECV_F0.0"), "no other rank is at the other end"),
        (COMPUTE, 2, swap("2F0.0", "2F0.1"), "2F0.1: it needs 2F0.0, which stands later, at position 1"),
        (COMPUTE, 3, swap("3B0.1", "3B0.0"), r"3B0.0: it needs 3B0.1, which stands later, at pos"),
        (COMPUTE, 3, move_to("3B1.0", 0), "3B1.0: it needs 3F1.0, which stands later"),
        (SPLIT, 1, move_to("1W0.1", 0), "1W0.1: it needs 1I0.1, which stands later"),
        (MESSAGES, 2, swap("2SEND_F0.0", "2F0.0"), "2SEND_F0.0: it needs 2F0.0, which stands later"),
        (MESSAGES, 2, swap("2RECV_F3.1", "2F3.1"), "2F3.1: it needs 2RECV_F3.1, which stands later"),
        (MESSAGES, 1, swap("1RECV_F1.0", "1RECV_F1.1"), "the message due here is that of 1RECV_F1.0"),
    ],
)
def test_broken_plans_are_refused(plan: Plan, rank: int, edit: Edit, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        validate_plan(edited(plan, rank, edit))


def test_a_cycle_of_waiting_ranks_is_spelled_out_and_drawn() -> None:
    with pytest.raises(PlanError) as caught:
        validate_plan(edited(COMPUTE, 0, move_to("0B0.1", 2)))
    message = str(caught.value)
    assert "deadlock: rank 0 waits at 0B0.1 for 1B0.1 of rank 1, rank 1 waits at 1F1.0 for 0F1.0" in message
    assert ">0B0.1<" in message
    assert ">1F1.0<" in message


def test_a_message_that_is_sent_too_late_is_a_cycle_too() -> None:
    late = edited(MESSAGES, 0, move_to("0SEND_F0.1", 12))
    with pytest.raises(PlanError, match=r"due here|waits at 1F0\.1 for 0SEND_F0\.1 of rank 0"):
        validate_plan(late)


def test_the_failing_cell_is_marked_in_a_window_of_the_grid() -> None:
    plan = make_plan("seq1f1b", stages=32, microbatches=64, chunks=4)
    with pytest.raises(PlanError) as caught:
        validate_plan(edited(plan, 20, swap("20F40.0", "20F40.1")))
    first, *drawing = str(caught.value).splitlines()
    assert "20F40.1" in first
    assert len(drawing) == 9
    assert next(line for line in drawing if ">20F40.1<" in line).startswith("rank 20")
    assert max(map(len, drawing)) < 120


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_stages": 0}, "num_stages is 0"),
        ({"num_chunks": 0}, "num_chunks is 0"),
        ({"num_stages": 3}, "4 lists of actions for 3 stages"),
        ({"num_microbatches": 10**9}, "0F4.0 is missing"),
    ],
)
def test_counts_must_fit_the_actions(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        validate_plan(replace(COMPUTE, **changes))
