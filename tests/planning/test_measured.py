"""The numbers of a measured step: bubble, shares of a stage's time, costs."""

from __future__ import annotations

import math
from array import array

import pytest

from megatron.seq1f1b.planning.measured import MeasuredPipeline
from megatron.seq1f1b.schedule import Action, Plan

TEXTS = (("0F0.0", "0SEND_F0.0", "0RECV_B0.0", "0B0.0"), ("1RECV_F0.0", "1F0.0", "1B0.0", "1SEND_B0.0"))
PLAN = Plan(
    name="by hand",
    num_stages=2,
    num_microbatches=1,
    num_chunks=1,
    actions=tuple(tuple(map(Action.parse, texts)) for texts in TEXTS),
)


def measured(*, has_messages: bool = True) -> MeasuredPipeline:
    """Stage 0 computes 2 + 3 s of 10, stage 1 1 + 2 s."""
    none = (math.nan,) * 3
    send_f, post_b = ((102.0, 102.0, 102.5), (102.5, 102.5, 102.5)) if has_messages else (none, none)
    post_f, send_b = ((99.0, 99.0, 99.0), (106.0, 106.0, 106.5)) if has_messages else (none, none)
    first = ((99.5, 100.0, 102.0), send_f, post_b, (102.5, 107.0, 110.0))
    last = (post_f, (99.0, 103.0, 104.0), (104.0, 104.0, 106.0), send_b)
    return MeasuredPipeline(
        plan=PLAN,
        seconds=[array("d", [moment for moments in stage for moment in moments]) for stage in (first, last)],
    )


@pytest.mark.parametrize("has_messages", [True, False])
def test_idle_is_what_is_not_computing(has_messages: bool) -> None:
    simulation = measured(has_messages=has_messages).as_simulation([1.0])
    assert simulation.makespan_seconds == 10.0
    assert simulation.bubble_fraction_per_stage == pytest.approx((0.5, 0.7))
    assert simulation.bubble_fraction == pytest.approx(0.6)
    assert [list(starts) for starts in simulation.starts] == [[0.0, 7.0], [3.0, 4.0]]


def test_shares_of_a_stage_add_up() -> None:
    first, last = (measured().shares(stage) for stage in (0, 1))
    assert first == pytest.approx((0.5, 0.45, 0.05, 0.0, 0.0))
    assert last == pytest.approx((0.3, 0.3, 0.05, 0.35, 0.0)), "waiting counts from the step's start"


def test_costs_are_what_the_actions_took() -> None:
    costs = measured().costs([1.0])
    assert costs.forward_seconds == [[2.0], [1.0]]
    assert costs.backward_seconds == [[3.0], [2.0]]
