from __future__ import annotations

import re
from typing import Any

import pytest

from megatron.seq1f1b.errors import ConfigurationError
from megatron.seq1f1b.schedule import SCHEDULE_NAMES, Plan, make_plan


def rows(plan: Plan) -> list[str]:
    return [" ".join(map(str, actions)) for actions in plan.actions]


def test_1f1b() -> None:
    assert rows(make_plan("1f1b", stages=2, microbatches=3, chunks=1)) == [
        "0F0.0 0F1.0 0B0.0 0F2.0 0B1.0 0B2.0",
        "1F0.0 1B0.0 1F1.0 1B1.0 1F2.0 1B2.0",
    ]


def test_seq1f1b_takes_chunks_last_in_first_out_and_microbatches_first_in_first_out() -> None:
    assert rows(make_plan("seq1f1b", stages=2, microbatches=2, chunks=2)) == [
        "0F0.0 0F0.1 0F1.0 0B0.1 0F1.1 0B0.0 0B1.1 0B1.0",
        "1F0.0 1F0.1 1B0.1 1F1.0 1B0.0 1F1.1 1B1.1 1B1.0",
    ]


def test_seq1f1b_with_fewer_units_than_stages_is_all_warmup() -> None:
    assert rows(make_plan("seq1f1b", stages=4, microbatches=1, chunks=2)) == [
        f"{stage}F0.0 {stage}F0.1 {stage}B0.1 {stage}B0.0" for stage in range(4)
    ]


def test_interleaved() -> None:
    assert rows(make_plan("interleaved", stages=2, microbatches=2, chunks=1, virtual_stages=2)) == [
        "0F0.0 0F1.0 2F0.0 2F1.0 2B0.0 2B1.0 0B0.0 0B1.0",
        "1F0.0 1F1.0 3F0.0 3B0.0 3F1.0 3B1.0 1B0.0 1B1.0",
    ]


def test_seq1f1b_interleaved_passes_groups_through_the_model_parts() -> None:
    plan = make_plan("seq1f1b-interleaved", stages=2, microbatches=2, chunks=2, virtual_stages=2)
    assert rows(plan) == [
        "0F0.0 0F0.1 2F0.0 2F0.1 0F1.0 0F1.1 2B0.1 2F1.0 2B0.0 2F1.1 0B0.1 0B0.0 2B1.1 2B1.0 0B1.1 0B1.0",
        "1F0.0 1F0.1 3F0.0 3F0.1 3B0.1 1F1.0 3B0.0 1F1.1 1B0.1 3F1.0 1B0.0 3F1.1 3B1.1 3B1.0 1B1.1 1B1.0",
    ]


def test_zero_bubble_puts_weight_gradients_off_by_the_stage_number() -> None:
    assert rows(make_plan("seq1f1b-zb", stages=3, microbatches=2, chunks=2)) == [
        "0F0.0 0F0.1 0F1.0 0F1.1 0B0.1 0B0.0 0B1.1 0B1.0",
        "1F0.0 1F0.1 1F1.0 1I0.1 1F1.1 1I0.0 1W0.1 1I1.1 1W0.0 1I1.0 1W1.1 1W1.0",
        "2F0.0 2F0.1 2I0.1 2F1.0 2I0.0 2F1.1 2I1.1 2W0.1 2I1.0 2W0.0 2W1.1 2W1.0",
    ]


@pytest.mark.parametrize("bound", [0, 1, 2])
def test_zero_bubble_bound_limits_pending_weight_gradients(bound: int) -> None:
    plan = make_plan("seq1f1b-zb", stages=6, microbatches=4, chunks=2, max_pending_weight_grads=bound)
    worst = 0
    for actions in plan.actions:
        pending = 0
        for action in actions:
            pending += {"I": 1, "W": -1}.get(action.kind.value, 0)
            if action.kind.value != "I":
                worst = max(worst, pending)
    assert worst == bound


def test_forward_only_interleaved_takes_groups_in_turn() -> None:
    plan = make_plan(
        "seq1f1b-interleaved", stages=2, microbatches=2, chunks=2, virtual_stages=2, forward_only=True
    )
    assert plan.forward_only
    assert rows(plan) == [
        "0F0.0 0F0.1 2F0.0 2F0.1 0F1.0 0F1.1 2F1.0 2F1.1",
        "1F0.0 1F0.1 3F0.0 3F0.1 1F1.0 1F1.1 3F1.0 3F1.1",
    ]


@pytest.mark.parametrize("name", SCHEDULE_NAMES)
@pytest.mark.parametrize("forward_only", [False, True])
def test_one_virtual_stage_is_accepted_by_every_schedule(name: str, forward_only: bool) -> None:
    plan = make_plan(name, stages=3, microbatches=4, chunks=1, virtual_stages=1, forward_only=forward_only)
    assert plan.name == name
    assert plan.num_virtual_stages == 1


@pytest.mark.parametrize(
    ("name", "counts", "message"),
    [
        ("1f1b", {"chunks": 4}, "cannot take 4 chunks; use seq1f1b, or"),
        ("interleaved", {"chunks": 2}, "cannot take 2 chunks; use seq1f1b-interleaved, or"),
        ("1f1b", {"virtual_stages": 2}, "2 virtual stages; use interleaved, or"),
        ("seq1f1b", {"virtual_stages": 2}, "2 virtual stages; use seq1f1b-interleaved, or"),
        ("seq1f1b-zb", {"virtual_stages": 3}, "3 virtual stages; use seq1f1b-interleaved, or"),
        (
            "interleaved",
            {"virtual_stages": 2, "microbatches": 6},
            "use 4 or 8 microbatches, or seq1f1b-inter",
        ),
        ("interleaved", {"virtual_stages": 2, "microbatches": 3}, "use 4 microbatches, or seq1f1b-inter"),
        ("interleaved", {"virtual_stages": 2, "stages": 1}, "at least 2 stages"),
        ("seq1f1b", {"stages": 0}, "0 stages cannot be scheduled"),
        ("seq1f1b", {"microbatches": -1}, "-1 microbatches cannot be scheduled"),
        ("seq1f1b", {"chunks": 0}, "0 chunks cannot be scheduled"),
        ("seq1f1b", {"microbatches": 10**9}, "forwards and backwards, and more than 100,000,000"),
        ("seq1f1b", {"virtual_stages": 0}, "0 virtual stages cannot be scheduled"),
        ("seq1f1b", {"max_pending_weight_grads": 2}, "use seq1f1b-zb, or no bound"),
        ("seq1f1b-zb", {"max_pending_weight_grads": -1}, "use 0 or more"),
        ("Seq1F1B-ZBH", {}, "did you mean seq1f1b-zb? (there are 1f1b, interleaved, seq1f1b, "),
        ("zb", {}, "did you mean seq1f1b-zb?"),
        ("gpipe", {}, "schedule 'gpipe' does not exist (there are 1f1b, "),
    ],
)
def test_what_cannot_run_is_refused_with_the_remedy(name: str, counts: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        make_plan(name, **{"stages": 4, "microbatches": 8, "chunks": 1, **counts})
