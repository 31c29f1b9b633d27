"""Rounds of interleaved schedules keep no more than groups of whole microbatches, and leave no gap."""

from __future__ import annotations

from itertools import product

import pytest

from megatron.seq1f1b.schedule import ActionKind, make_plan, peak_formula, simulate, unit_costs
from megatron.seq1f1b.schedule.grouping import cut_rounds, units_ahead

SMALL = [
    (p, m, k) for p, m, k in product(range(2, 10), range(1, 14), range(1, 10)) if p <= k * m
]  # m >= ceil(p / k)


def largest_group(p: int, m: int, k: int) -> int:
    """Units of the largest of floor(m / ceil(p / k)) equal groups."""
    return k * -(-m // (m // -(-p // k)))


def test_rounds_keep_less_than_groups_where_chunks_divide_the_stages_below() -> None:
    smaller = set()
    for p, m, k in SMALL:
        ahead = units_ahead(cut_rounds(stages=p, microbatches=m, chunks=k))
        assert p <= ahead <= largest_group(p, m, k)
        if ahead < largest_group(p, m, k):
            smaller.add((p, k))
    assert smaller == {(p, k) for p in range(3, 10) for k in range(2, p) if (p - 1) % k == 0}


@pytest.mark.parametrize("virtual_stages", [2, 3])
def test_as_many_microbatches_as_stages_are_not_all_warmup(virtual_stages: int) -> None:
    for p, k in product(range(2, 9), range(2, 9)):
        plan = make_plan(
            "seq1f1b-interleaved", stages=p, microbatches=p, chunks=k, virtual_stages=virtual_stages
        )
        kinds = [action.kind for action in plan.actions[0]]
        assert kinds.index(ActionKind.B) < kinds.count(ActionKind.F), (p, k)
        peak = peak_formula(
            plan.name, stages=p, microbatches=p, chunks=k, virtual_stages=virtual_stages, stage=0
        )
        assert peak < p, (p, k)


@pytest.mark.parametrize("counts", [(3, 3, 2), (4, 3, 3), (5, 5, 2), (5, 3, 4), (7, 8, 3)])
@pytest.mark.parametrize("backward_seconds", [0.5, 1.0, 3.0, 4.0])
def test_rounds_leave_no_gap_however_long_backwards_are(
    counts: tuple[int, int, int], backward_seconds: float
) -> None:
    p, m, k = counts
    assert units_ahead(cut_rounds(stages=p, microbatches=m, chunks=k)) < largest_group(p, m, k)
    plan = make_plan("seq1f1b-interleaved", stages=p, microbatches=m, chunks=k, virtual_stages=2)
    halves = dict.fromkeys(("input_grad_seconds", "weight_grad_seconds"), backward_seconds / 2)
    simulation = simulate(plan, unit_costs(plan, **halves))
    assert simulation.bubble_fraction == pytest.approx((p - 1) / (2 * k * m + p - 1), abs=1e-9)


def test_a_round_backward_may_end_inside_a_microbatch() -> None:
    plan = make_plan("seq1f1b-interleaved", stages=3, microbatches=3, chunks=2, virtual_stages=2)
    forwards, backwards = (
        " ".join(str(action) for action in plan.actions[2] if action.kind is kind)
        for kind in (ActionKind.F, ActionKind.B)
    )
    assert forwards == "2F0.0 2F0.1 2F1.0 2F1.1 5F0.0 5F0.1 5F1.0 5F1.1 2F2.0 2F2.1 5F2.0 5F2.1"
    assert backwards == "5B0.1 5B0.0 5B1.1 2B0.1 2B0.0 2B1.1 5B1.0 5B2.1 5B2.0 2B1.0 2B2.1 2B2.0"
    assert simulate(plan, unit_costs(plan)).peak_activation_microbatches_per_stage == (2.5, 2.0, 1.5)
