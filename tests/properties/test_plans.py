"""What holds for every plan: small layouts exhaustively, larger ones and damaged ones at random."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron.seq1f1b.errors import ConfigurationError, PlanError
from megatron.seq1f1b.schedule import (
    SCHEDULE_NAMES,
    ActionKind,
    Plan,
    add_communication,
    bubble_formula,
    make_plan,
    peak_formula,
    simulate,
    unit_costs,
    validate_plan,
)
from tests.schedule.oracle import ends_of, executes

SETTINGS = settings(max_examples=60, deadline=None)


def counts_of(plan: Plan) -> dict[str, int]:
    return {
        "stages": plan.num_stages,
        "microbatches": plan.num_microbatches,
        "chunks": plan.num_chunks,
        "virtual_stages": plan.num_virtual_stages,
    }


def check_everything(plan: Plan) -> None:
    """Valid with and without messages; bubble and peaks as the formulas say."""
    communicating = add_communication(plan)
    validate_plan(plan)
    validate_plan(communicating)
    simulation = simulate(plan, unit_costs(plan))
    counts = counts_of(plan)
    expected = bubble_formula(plan.name, **counts, forward_only=plan.forward_only)
    assert simulation.bubble_fraction == pytest.approx(expected, abs=1e-9), (plan.name, counts)
    if not plan.forward_only:
        peaks = [peak_formula(plan.name, **counts, stage=stage) for stage in range(plan.num_stages)]
        assert simulation.peak_activation_microbatches_per_stage == pytest.approx(peaks, abs=1e-9)


def test_seq1f1b_is_valid_and_as_the_formulas_for_all_layouts_up_to_8() -> None:
    for p, m, k in product(range(1, 9), repeat=3):
        check_everything(make_plan("seq1f1b", stages=p, microbatches=m, chunks=k))


@pytest.mark.parametrize("name", SCHEDULE_NAMES)
@pytest.mark.parametrize("forward_only", [False, True])
def test_every_schedule_is_valid_or_refused_for_all_small_layouts(name: str, forward_only: bool) -> None:
    num_made = 0
    for p, m, k, v in product((1, 2, 3, 4), (1, 2, 3, 4, 8), (1, 2, 3, 5), (1, 2, 3)):
        try:
            plan = make_plan(
                name, stages=p, microbatches=m, chunks=k, virtual_stages=v, forward_only=forward_only
            )
        except ConfigurationError:
            continue
        check_everything(plan)
        num_made += 1
    assert num_made >= 20


@st.composite
def plans(draw: st.DrawFn, largest: int = 6) -> Plan:
    """Any plan of ours with counts up to `largest`."""
    count = st.integers(1, largest)
    name = draw(st.sampled_from(SCHEDULE_NAMES))
    stages, microbatches, chunks = draw(count), draw(count), draw(count)
    virtual_stages = draw(st.integers(1, 3)) if name.endswith("interleaved") else 1
    if name in ("1f1b", "interleaved"):
        chunks = 1
    if name == "interleaved":
        stages, microbatches = max(2, stages), max(2, stages) * draw(st.integers(1, 3))
    bound = draw(st.none() | st.integers(0, largest)) if name == "seq1f1b-zb" else None
    return make_plan(
        name,
        stages=stages,
        microbatches=microbatches,
        chunks=chunks,
        virtual_stages=virtual_stages,
        forward_only=draw(st.booleans()),
        max_pending_weight_grads=bound,
    )


@SETTINGS
@given(plan=plans(), receive_ahead=st.integers(0, 5))
def test_plans_execute_on_in_order_channels_for_any_receive_ahead(plan: Plan, receive_ahead: int) -> None:
    communicating = add_communication(plan, receive_ahead=receive_ahead)
    validate_plan(communicating)
    assert executes(communicating)


@SETTINGS
@given(plan=plans())
def test_simulated_ends_are_those_of_a_plain_look_up(plan: Plan) -> None:
    simulation = simulate(plan, unit_costs(plan))
    ends = ends_of(plan)
    for actions, simulated in zip(plan.actions, simulation.ends, strict=True):
        assert list(simulated) == [ends[action] for action in actions]


@SETTINGS
@given(plan=plans())
def test_each_action_stands_once_and_messages_pair_up(plan: Plan) -> None:
    communicating = add_communication(plan)
    actions = [action for each in communicating.actions for action in each]
    assert len(set(actions)) == len(actions)
    kinds = [action.kind for action in actions]
    assert kinds.count(ActionKind.SEND_F) == kinds.count(ActionKind.RECV_F)
    assert kinds.count(ActionKind.SEND_B) == kinds.count(ActionKind.RECV_B)
    units = (plan.last_virtual_stage + 1) * plan.num_microbatches * plan.num_chunks
    crossing = units - plan.num_microbatches * plan.num_chunks if plan.num_stages > 1 else 0
    assert kinds.count(ActionKind.SEND_F) == crossing


@settings(max_examples=300, deadline=None)
@given(plan=plans(largest=4), data=st.data())
def test_the_validator_accepts_a_shuffled_plan_exactly_if_it_executes(
    plan: Plan, data: st.DataObject
) -> None:
    communicating = add_communication(plan)
    rows = [list(actions) for actions in communicating.actions]
    for _ in range(data.draw(st.integers(1, 2), label="moves")):
        row = data.draw(st.sampled_from(rows), label="rank")
        index = st.integers(0, len(row) - 1)
        row.insert(data.draw(index, label="to"), row.pop(data.draw(index, label="from")))
    shuffled = replace(communicating, actions=tuple(map(tuple, rows)))
    assert accepts(shuffled) == executes(shuffled)


@SETTINGS
@given(plan=plans(largest=4), with_messages=st.booleans(), data=st.data())
def test_a_missing_or_repeated_action_is_always_refused(
    plan: Plan, with_messages: bool, data: st.DataObject
) -> None:
    plan = add_communication(plan) if with_messages else plan
    rows = [list(actions) for actions in plan.actions]
    row = data.draw(st.sampled_from(rows), label="rank")
    position = data.draw(st.integers(0, len(row) - 1), label="position")
    if data.draw(st.booleans(), label="repeat"):
        row.append(row[position])
    else:
        row.pop(position)
    assert not accepts(replace(plan, actions=tuple(map(tuple, rows))))


def accepts(plan: Plan) -> bool:
    try:
        validate_plan(plan)
    except PlanError:
        return False
    return True


@SETTINGS
@given(
    plan=plans(),
    forward=st.floats(0.1, 10.0),
    latency=st.floats(0.0, 2.0),
    receive_ahead=st.integers(0, 3),
)
def test_slower_messages_never_make_a_step_shorter(
    plan: Plan, forward: float, latency: float, receive_ahead: int
) -> None:
    costs = unit_costs(plan, forward_seconds=forward)
    slower = replace(costs, latency_seconds=latency)
    fast = simulate(plan, costs).makespan_seconds
    assert simulate(plan, slower).makespan_seconds >= fast
    with_posts = simulate(add_communication(plan, receive_ahead=receive_ahead), slower)
    assert with_posts.makespan_seconds >= simulate(plan, slower).makespan_seconds


@SETTINGS
@given(stages=st.integers(1, 8), microbatches=st.integers(1, 6), chunks=st.integers(1, 6))
def test_zero_bubble_is_no_slower_and_needs_no_more_memory_than_seq1f1b(
    stages: int, microbatches: int, chunks: int
) -> None:
    whole, split = (
        make_plan(name, stages=stages, microbatches=microbatches, chunks=chunks)
        for name in ("seq1f1b", "seq1f1b-zb")
    )
    before, after = simulate(whole, unit_costs(whole)), simulate(split, unit_costs(split))
    assert after.makespan_seconds <= before.makespan_seconds
    assert max(after.peak_activation_microbatches_per_stage) <= (
        max(before.peak_activation_microbatches_per_stage) + 1e-9
    )


def test_interleaved_with_as_many_microbatches_as_stages_is_not_all_warmup() -> None:
    plan = make_plan("seq1f1b-interleaved", stages=4, microbatches=4, chunks=4, virtual_stages=2)
    for actions in plan.actions:
        first_backward = [action.kind for action in actions].index(ActionKind.B)
        assert first_backward < len(actions) // 2


def test_the_room_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, megatron.seq1f1b.schedule, megatron.seq1f1b.partition;"
        "print({'torch', 'numpy', 'megatron.core'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
