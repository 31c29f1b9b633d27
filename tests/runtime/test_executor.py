"""The executor does what the plan says, in its order, and ends with nothing left."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest
import torch
import torch.distributed as dist

from megatron.seq1f1b.chunk import Chunk, chunks_from
from megatron.seq1f1b.errors import StepError
from megatron.seq1f1b.runtime.channels import Channels
from megatron.seq1f1b.runtime.executor import Executor, Forwarded, Unit, channels_of
from megatron.seq1f1b.runtime.in_flight import AwaitedSends, Send
from megatron.seq1f1b.runtime.messages import MessageBuffers
from megatron.seq1f1b.schedule import Action, ActionKind, Plan, add_communication, make_plan
from tests.harness import run_distributed


class CountingProgram:
    """Adds one per virtual stage forwards; gradients add one per virtual stage backwards."""

    def __init__(self, num_virtual_stages: int) -> None:
        self._last = num_virtual_stages - 1
        self.calls: list[str] = []

    def forward(self, unit: Unit, stage_input: torch.Tensor | None) -> torch.Tensor:
        self._note("F", unit)
        if stage_input is None:
            return torch.full((1, 1), float(_number(unit)), requires_grad=True) + 0.0
        assert stage_input.item() == _number(unit) + unit.virtual_stage - 1
        return stage_input + 1.0

    def backward(self, unit: Unit, forwarded: Forwarded) -> torch.Tensor | None:
        self._note("B", unit)
        return self._grad(unit, forwarded.output_grad)

    def backward_input(self, unit: Unit, forwarded: Forwarded) -> torch.Tensor | None:
        self._note("I", unit)
        return self._grad(unit, forwarded.output_grad)

    def backward_weight(self, unit: Unit) -> None:
        self._note("W", unit)

    def finish(self, unit: Unit) -> None:
        self._note("finish", unit)

    def _grad(self, unit: Unit, output_grad: torch.Tensor | None) -> torch.Tensor | None:
        if unit.virtual_stage == self._last:
            assert output_grad is None
            return torch.full((1, 1), float(_number(unit)))
        assert output_grad is not None
        assert output_grad.item() == _number(unit) + self._last - unit.virtual_stage - 1
        return None if unit.virtual_stage == 0 else output_grad + 1.0

    def _note(self, what: str, unit: Unit) -> None:
        self.calls.append(f"{unit.virtual_stage}{what}{unit.microbatch}.{unit.chunk}")


def _number(unit: Unit) -> int:
    return 1000 * unit.microbatch + 10 * unit.chunk


def _new_message(chunk: Chunk) -> torch.Tensor:
    return torch.empty(1, 1)


def _run(
    plan: Plan, rank: int, channels: Channels | None, program: CountingProgram | None = None
) -> list[str]:
    program = program or CountingProgram(plan.num_all_virtual_stages)
    executor = Executor(
        plan=plan,
        rank=rank,
        chunks=chunks_from(tuple(range(plan.num_chunks + 1))),
        program=program,
        channels=channels,
        buffers=MessageBuffers(_new_message),
    )
    executor.run()
    return program.calls


def run_plans(plans: list[Plan]) -> list[list[str]]:
    """What this rank's program was asked to do, by plan."""
    calls = []
    for plan in plans:
        channels = Channels(channels_of(plan), pipeline_group=dist.group.WORLD)
        calls.append(_run(plan, dist.get_rank(), channels))
        channels.close()
    return calls


def _all_plans(stages: int) -> list[Plan]:
    shapes = [
        ("seq1f1b", 1, 1),
        ("seq1f1b", 3, 1),
        ("seq1f1b-interleaved", 1, 2),
        ("seq1f1b-interleaved", 3, 2),
        ("seq1f1b-interleaved", 2, 3),
        ("seq1f1b-zb", 1, 1),
        ("seq1f1b-zb", 3, 1),
    ]
    plans = [
        make_plan(name, stages=stages, microbatches=4, chunks=k, virtual_stages=v, forward_only=only)
        for name, k, v in shapes
        for only in (False, True)
    ]
    return [add_communication(plan) for plan in plans]


@pytest.mark.parametrize("stages", [2, 3, 4])
def test_every_rank_computes_its_actions_in_order_on_the_right_tensors(stages: int) -> None:
    plans = _all_plans(stages)
    by_rank = run_distributed(run_plans, stages, plans)
    for rank, by_plan in enumerate(by_rank):
        for plan, calls in zip(plans, by_plan, strict=True):
            computed = [call for call in calls if "finish" not in call]
            assert computed == [str(action) for action in plan.actions[rank] if action.kind.is_compute]


def test_one_stage_runs_without_channels() -> None:
    plan = make_plan("seq1f1b", stages=1, microbatches=2, chunks=2)
    calls = [call for call in _run(plan, 0, None) if "finish" not in call]
    assert calls == ["0F0.0", "0F0.1", "0B0.1", "0F1.0", "0B0.0", "0F1.1", "0B1.1", "0B1.0"]


def test_virtual_stages_on_one_rank_hand_over_without_messages() -> None:
    plan = make_plan("seq1f1b-interleaved", stages=1, microbatches=2, chunks=2, virtual_stages=2)
    calls = [call for call in _run(plan, 0, None) if "finish" not in call]
    assert calls == [str(action) for action in plan.actions[0]]


def test_a_step_that_leaves_tensors_names_them() -> None:
    plan = make_plan("seq1f1b", stages=1, microbatches=1, chunks=2)
    without_last = replace(plan, actions=(plan.actions[0][:-1],))
    with pytest.raises(StepError, match=r"tensors left over.*inputs.*virtual_stage=0.*chunk=0"):
        _run(without_last, 0, None)


class Wire:
    """Channels whose n-th message is n, and which have sent nothing before the step ends."""

    def __init__(self) -> None:
        self._num_received = 0
        self._leaving: list[torch.Tensor] = []
        self.sent: list[float] = []

    def post_receive(self, channel: object, buffer: torch.Tensor, *, what: str) -> SimpleNamespace:
        self._num_received += 1
        buffer.fill_(self._num_received)
        return SimpleNamespace(wait=lambda: buffer)

    def send(self, channel: object, message: torch.Tensor, *, what: str) -> None:
        self._leaving.append(message.detach())

    def drain(self) -> None:
        self.sent = [message.item() for message in self._leaving]


class PassingProgram(CountingProgram):
    """A stage without layers."""

    def forward(self, unit: Unit, stage_input: torch.Tensor | None) -> torch.Tensor:
        assert stage_input is not None
        return stage_input.view_as(stage_input)

    def backward(self, unit: Unit, forwarded: Forwarded) -> torch.Tensor | None:
        return forwarded.output_grad


@pytest.mark.parametrize("forward_only", [False, True])
def test_what_a_stage_only_passes_on_outlives_the_buffer_it_came_in(forward_only: bool) -> None:
    plan = make_plan("seq1f1b", stages=3, microbatches=4, chunks=1, forward_only=forward_only)
    wire = Wire()
    _run(add_communication(plan), 1, cast(Channels, wire), PassingProgram(3))
    assert wire.sent == list(range(1, 5 if forward_only else 9))


class FailingProgram(CountingProgram):
    """Runs out of memory in one forward."""

    def forward(self, unit: Unit, stage_input: torch.Tensor | None) -> torch.Tensor:
        if unit == Unit(0, 1, 1):
            raise torch.OutOfMemoryError("no memory left")
        return super().forward(unit, stage_input)


@pytest.mark.skipif(not hasattr(BaseException, "add_note"), reason="errors have notes from Python 3.11 on")
def test_an_error_of_the_model_names_the_action() -> None:
    plan = make_plan("seq1f1b", stages=1, microbatches=2, chunks=2)
    with pytest.raises(torch.OutOfMemoryError, match="no memory left") as failure:
        _run(plan, 0, None, FailingProgram(1))
    assert failure.value.__notes__ == ["in 0F1.1 on stage 0 of plan seq1f1b"]


def wait_for_a_rank_that_dies() -> str:
    plan = add_communication(make_plan("seq1f1b", stages=2, microbatches=1, chunks=1))
    channels = Channels(channels_of(plan), pipeline_group=dist.group.WORLD)
    if dist.get_rank() == 0:
        dist.destroy_process_group()
        return "gone"
    message = "no error"
    try:
        _run(plan, 1, channels)
    except StepError as error:
        message = str(error)
    dist.destroy_process_group()
    return message


def test_a_lost_neighbour_is_named_with_the_action() -> None:
    _, message = run_distributed(wait_for_a_rank_that_dies, 2)
    # Gone before the receive was posted, or after.
    assert re.match(r"1(RECV_)?F0\.0 on stage 1: waited for 1RECV_F0\.0 from rank 0 \(stage 0\)", message)


def test_a_message_that_was_not_delivered_is_named() -> None:
    def fail() -> None:
        raise RuntimeError("Connection reset\nand where")

    sends = AwaitedSends()
    work = cast(dist.Work, SimpleNamespace(wait=fail))
    sends.add(Send(work=work, message=torch.ones(1), what="0SEND_F0.0 to rank 1"))
    with pytest.raises(StepError, match=r"^0SEND_F0\.0 to rank 1 was not delivered: Connection reset$"):
        sends.drain()
    sends.stop()


def count_messages_in_flight() -> bool:
    """A send returns at once although its receive is posted much later."""
    forward = next(
        iter(channels_of(add_communication(make_plan("seq1f1b", stages=2, microbatches=1, chunks=1))))
    )
    channels = Channels([forward], pipeline_group=dist.group.WORLD)
    message = torch.ones(1 << 20)
    is_sender = dist.get_rank() == forward.source
    if is_sender:
        started_at = time.perf_counter()
        for _ in range(8):
            channels.send(forward, message, what="test")
        elapsed = time.perf_counter() - started_at
        dist.barrier()
    else:
        dist.barrier()
        for _ in range(8):
            received = channels.post_receive(forward, torch.empty(1 << 20), what="test").wait()
            assert received.sum().item() == 1 << 20
        elapsed = 0.0
    channels.close()
    return elapsed < 60.0


def test_sends_do_not_wait_for_their_receives() -> None:
    assert run_distributed(count_messages_in_flight, 2) == [True, True]


def test_actions_of_a_channel_are_those_of_the_plan() -> None:
    plan = add_communication(make_plan("seq1f1b", stages=2, microbatches=1, chunks=1))
    assert {(c.source, c.destination) for c in channels_of(plan)} == {(0, 1), (1, 0)}
    assert Action(ActionKind.SEND_F, 0, 0, 0) in plan.actions[0]


def test_a_profiler_sees_every_action_by_its_text() -> None:
    plan = make_plan("seq1f1b", stages=1, microbatches=1, chunks=2)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        _run(plan, 0, None)
    names = {event.name for event in profiler.events()}
    assert {str(action) for action in plan.actions[0]} <= names
