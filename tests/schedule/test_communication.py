from __future__ import annotations

import pytest

from megatron.seq1f1b.errors import PlanError
from megatron.seq1f1b.schedule import (
    Action,
    Plan,
    add_communication,
    channel_of,
    make_plan,
    plan_from_csv,
    receive_of,
    validate_plan,
)
from tests.schedule.oracle import executes


def rows(plan: Plan) -> list[str]:
    return [" ".join(map(str, actions)) for actions in plan.actions]


def test_sends_follow_producers_and_receives_are_posted_ahead() -> None:
    plan = make_plan("seq1f1b", stages=2, microbatches=1, chunks=2)
    assert rows(add_communication(plan)) == [
        "0RECV_B0.1 0F0.0 0SEND_F0.0 0RECV_B0.0 0F0.1 0SEND_F0.1 0B0.1 0B0.0",
        "1RECV_F0.0 1RECV_F0.1 1F0.0 1F0.1 1B0.1 1SEND_B0.1 1B0.0 1SEND_B0.0",
    ]


def test_receive_ahead_zero_posts_just_before_the_consumer() -> None:
    plan = make_plan("seq1f1b", stages=2, microbatches=1, chunks=2)
    assert rows(add_communication(plan, receive_ahead=0)) == [
        "0F0.0 0SEND_F0.0 0F0.1 0SEND_F0.1 0RECV_B0.1 0B0.1 0RECV_B0.0 0B0.0",
        "1RECV_F0.0 1F0.0 1RECV_F0.1 1F0.1 1B0.1 1SEND_B0.1 1B0.0 1SEND_B0.0",
    ]


def test_receives_are_posted_in_send_order_where_consumption_differs() -> None:
    plan = plan_from_csv("0F0.0,0F1.0,0B1.0,0B0.0\n1F1.0,1F0.0,1B1.0,1B0.0\n")
    communicating = add_communication(plan, receive_ahead=0)
    assert rows(communicating)[1].startswith("1RECV_F0.0 1RECV_F1.0 1F1.0 1F0.0")
    validate_plan(communicating)
    assert executes(communicating)


def test_a_single_stage_needs_no_messages() -> None:
    plan = make_plan("seq1f1b-interleaved", stages=1, microbatches=2, chunks=2, virtual_stages=2)
    assert add_communication(plan).actions == plan.actions


def test_last_rank_sends_forward_to_the_first_between_model_parts() -> None:
    plan = make_plan("interleaved", stages=2, microbatches=2, chunks=1, virtual_stages=2)
    send = Action.parse("1SEND_F0.0")
    assert send in add_communication(plan).actions[1]
    assert receive_of(send) == Action.parse("2RECV_F0.0")
    assert channel_of(send, plan) == channel_of(receive_of(send), plan) == (1, 0, True)


def test_two_stages_use_a_channel_per_direction_of_the_computation() -> None:
    plan = make_plan("interleaved", stages=2, microbatches=2, chunks=1, virtual_stages=2)
    forward, backward = Action.parse("0SEND_F0.0"), Action.parse("2SEND_B0.0")
    assert channel_of(forward, plan) == (0, 1, True)
    assert channel_of(backward, plan) == (0, 1, False)


def test_split_backwards_send_after_the_input_gradient() -> None:
    plan = add_communication(make_plan("seq1f1b-zb", stages=2, microbatches=2, chunks=2))
    assert "1I0.0 1SEND_B0.0 1W0.1" in rows(plan)[1]


def test_adding_twice_is_refused() -> None:
    plan = add_communication(make_plan("seq1f1b", stages=2, microbatches=1, chunks=1))
    with pytest.raises(PlanError, match="has sends and receives already"):
        add_communication(plan)


def test_negative_receive_ahead_is_refused() -> None:
    with pytest.raises(PlanError, match="-1 is negative"):
        add_communication(make_plan("1f1b", stages=2, microbatches=1, chunks=1), receive_ahead=-1)
