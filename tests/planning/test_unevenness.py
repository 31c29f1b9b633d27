from __future__ import annotations

import statistics

import pytest

from megatron.seq1f1b.planning.unevenness import DRAWS, Unevenness, expected_seconds, unevenness_of
from megatron.seq1f1b.runtime.timer import TimedActions
from megatron.seq1f1b.schedule import ActionKind, Plan, make_plan, simulate, unit_costs


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan("seq1f1b", stages=4, microbatches=8, chunks=2)


def test_even_actions_take_what_their_average_says(plan: Plan) -> None:
    expected = expected_seconds(plan, unit_costs(plan), Unevenness(sequences=((1.0, 1.0),)))
    assert expected == pytest.approx(simulate(plan, unit_costs(plan)).makespan_seconds)


def test_uneven_actions_take_longer_than_their_average_says(plan: Plan) -> None:
    uneven = Unevenness(sequences=((0.5, 1.5, 1.4, 0.6), (1.0, 1.0, 1.3, 0.7)))
    even = simulate(plan, unit_costs(plan)).makespan_seconds
    assert even * 1.1 < expected_seconds(plan, unit_costs(plan), uneven) < even * 1.5


def test_one_stage_waits_for_nobody() -> None:
    alone = make_plan("seq1f1b", stages=1, microbatches=8, chunks=2)
    uneven = Unevenness(sequences=((0.5, 1.5, 1.4, 0.6),))
    even = simulate(alone, unit_costs(alone)).makespan_seconds
    assert expected_seconds(alone, unit_costs(alone), uneven) == pytest.approx(even, rel=0.01)


def test_the_answer_is_always_the_same(plan: Plan) -> None:
    uneven = Unevenness(sequences=((0.5, 1.5), (1.0, 1.0)))
    answers = {expected_seconds(plan, unit_costs(plan), uneven) for _ in range(3)}
    assert len(answers) == 1
    drawn = list(uneven.drawn(4, DRAWS))
    assert len({str(factors) for factors in drawn}) > 1


def test_factors_are_over_the_average_of_the_same_action() -> None:
    first: TimedActions = [((ActionKind.F, 0, 0), 1.0), ((ActionKind.B, 0, 0), 6.0)]
    second: TimedActions = [((ActionKind.F, 0, 0), 3.0), ((ActionKind.B, 0, 0), 2.0)]
    uneven = unevenness_of([[first, second, []], [second]])
    assert uneven.sequences == ((0.5, 1.5), (1.5, 0.5), (1.0, 1.0))
    assert statistics.fmean(factor for each in uneven.sequences for factor in each) == 1.0


def test_factors_follow_the_order_of_a_rank_and_begin_again(plan: Plan) -> None:
    simulation = simulate(plan, unit_costs(plan), factors=[(1.0, 2.0)] + [(1.0,)] * 3)
    ends, starts = simulation.ends[0], simulation.starts[0]
    taken = [round(end - start, 9) for start, end in zip(starts, ends, strict=True)]
    bases = [1.0 if action.kind is ActionKind.F else 2.0 for action in plan.actions[0]]
    assert taken == [base * (1.0 + number % 2) for number, base in enumerate(bases)]
