from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from megatron.seq1f1b.errors import ConfigurationError, PlanError
from megatron.seq1f1b.schedule import (
    SCHEDULE_NAMES,
    Action,
    Costs,
    Plan,
    Simulation,
    add_communication,
    make_plan,
    plan_from_csv,
    simulate,
    unit_costs,
)
from tests.schedule.oracle import ends_of


def end_of(simulation: Simulation, text: str) -> float:
    action = Action.parse(text)
    rank = simulation.plan.rank_of(action.virtual_stage)
    return simulation.ends[rank][simulation.plan.actions[rank].index(action)]


@pytest.mark.parametrize("name", SCHEDULE_NAMES)
@pytest.mark.parametrize("forward_only", [False, True])
def test_every_end_is_that_of_a_plain_look_up(name: str, forward_only: bool) -> None:
    counts = {
        "chunks": 3 if name.startswith("seq") else 1,
        "virtual_stages": 2 if name.endswith("interleaved") else 1,
    }
    plan = make_plan(name, stages=3, microbatches=6, forward_only=forward_only, **counts)
    expected = ends_of(plan)
    for candidate in (plan, add_communication(plan)):
        simulation = simulate(candidate, unit_costs(candidate))
        for rank, actions in enumerate(candidate.actions):
            for action, start, end in zip(
                actions, simulation.starts[rank], simulation.ends[rank], strict=True
            ):
                assert end == expected.get(action, end), action
                assert action.kind.is_compute or start == end
        assert simulation.makespan_seconds == max(expected.values())


def chain() -> tuple[Plan, Costs]:
    """Two stages, forward only, two chunks of 1 second on the first stage and 3 on the second."""
    plan = make_plan("seq1f1b", stages=2, microbatches=1, chunks=2, forward_only=True)
    return plan, replace(unit_costs(plan), forward_seconds=((1.0, 1.0), (3.0, 3.0)))


def test_latency_delays_the_consumer() -> None:
    plan, costs = chain()
    simulation = simulate(plan, replace(costs, latency_seconds=0.5))
    assert end_of(simulation, "1F0.0") == 1.0 + 0.5 + 3.0
    assert simulation.makespan_seconds == 7.5


def test_messages_follow_one_another_on_a_channel() -> None:
    plan, costs = chain()
    costs = replace(
        costs,
        forward_seconds=((1.0, 1.0), (0.25, 0.25)),
        message_bytes=(40.0, 10.0),
        bandwidth_bytes_per_second=10.0,
    )
    simulation = simulate(plan, costs)
    assert end_of(simulation, "1F0.0") == 1.0 + 4.0 + 0.25
    assert end_of(simulation, "1F0.1") == 1.0 + 4.0 + 1.0 + 0.25  # sent at 2, channel busy until 5


def test_a_message_leaves_when_its_receive_is_posted() -> None:
    plan = add_communication(
        make_plan("seq1f1b", stages=2, microbatches=1, chunks=2, forward_only=True), receive_ahead=0
    )
    costs = replace(chain()[1], latency_seconds=0.5)
    simulation = simulate(plan, costs)
    assert end_of(simulation, "1F0.0") == 1.0 + 0.5 + 3.0
    assert end_of(simulation, "1F0.1") == 4.5 + 0.5 + 3.0  # posted only after the forward before it


def test_bubbles_are_idle_shares_of_the_whole_step() -> None:
    simulation = simulate(*chain())
    assert simulation.makespan_seconds == 7.0
    assert simulation.bubble_fraction_per_stage == pytest.approx((5 / 7, 1 / 7))
    assert simulation.bubble_fraction == pytest.approx(3 / 7)


def test_peaks_weigh_chunks_by_their_tokens() -> None:
    plan = make_plan("seq1f1b", stages=2, microbatches=2, chunks=2)
    costs = replace(unit_costs(plan), token_shares=(0.7, 0.3))
    peaks = simulate(plan, costs).peak_activation_microbatches_per_stage
    assert peaks == pytest.approx((0.7 + 0.3 + 0.7, 0.7 + 0.7))


def test_weight_gradients_keep_their_activations() -> None:
    text = "0F0.0,0F1.0,0I0.0,0I1.0,0W0.0,0F2.0,0W1.0,0I2.0,0W2.0\n"
    plan = plan_from_csv(text)
    simulation = simulate(plan, unit_costs(plan))
    assert simulation.peak_activation_microbatches_per_stage == (2.0,)
    assert simulation.peak_kv_caches_per_stage == (2,)


def test_kv_and_dkv_live_as_long_as_their_microbatch_needs_them() -> None:
    plan = make_plan("seq1f1b", stages=4, microbatches=4, chunks=4)
    simulation = simulate(plan, unit_costs(plan))
    assert simulation.peak_kv_caches_per_stage == (3, 3, 2, 2)
    assert simulation.peak_dkv_buffers_per_stage == (1, 1, 1, 1)


def test_whole_sequences_need_no_dkv() -> None:
    plan = make_plan("1f1b", stages=4, microbatches=4, chunks=1)
    simulation = simulate(plan, unit_costs(plan))
    assert simulation.peak_kv_caches_per_stage == (4, 3, 2, 1)
    assert simulation.peak_dkv_buffers_per_stage == (0, 0, 0, 0)


def test_evaluation_keeps_no_activations() -> None:
    plan = make_plan("seq1f1b", stages=4, microbatches=4, chunks=4, forward_only=True)
    simulation = simulate(plan, unit_costs(plan))
    assert simulation.peak_activation_microbatches_per_stage == (0.0,) * 4
    assert simulation.peak_kv_caches_per_stage == (1,) * 4


def test_a_plan_that_cannot_run_does_not_simulate_for_ever() -> None:
    plan = make_plan("seq1f1b", stages=2, microbatches=1, chunks=2)
    backwards_first = replace(plan, actions=tuple(actions[::-1] for actions in plan.actions))
    with pytest.raises(PlanError, match="wait for each other"):
        simulate(backwards_first, unit_costs(plan))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"forward_seconds": ((1.0, 1.0),)}, "costs of F must have 2 rows"),
        ({"weight_grad_seconds": ((1.0,), (1.0,))}, "costs of W must have 2 rows"),
        ({"backward_seconds": ((1.0, -1.0), (1.0, 1.0))}, "costs of B must be finite and not neg"),
        ({"token_shares": (1.0,)}, "1 token shares do not fit the 2 chunks"),
        ({"message_bytes": (1.0,)}, "1 message bytes do not fit the 2 chunks"),
        ({"latency_seconds": -1.0}, "latency of -1.0 s"),
        ({"bandwidth_bytes_per_second": 0.0}, "bandwidth of 0.0 bytes/s"),
    ],
)
def test_costs_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    plan, costs = chain()
    with pytest.raises(ConfigurationError, match=message):
        simulate(plan, replace(costs, **changes))
