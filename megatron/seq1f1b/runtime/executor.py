"""The executor: an interpreter of one plan on one pipeline rank.

It walks the rank's actions in order and does nothing that the plan does not say. Each kind of
action has one small method that computes or communicates, never both. Tensors wait in dictionaries
keyed by (virtual stage, microbatch, chunk); a step ends with all of them empty, or with an error
that names what is left.

    RECV_F  post a receive          F  wait for the input, compute, keep the output
    SEND_F  send the output         B  wait for the output's gradient, compute, keep the input's
    RECV_B  post a receive          I  the input-gradient half of B
    SEND_B  send the gradient       W  the weight-gradient half of B
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, Protocol

import torch

from megatron.seq1f1b.chunk import Chunk
from megatron.seq1f1b.errors import StepError
from megatron.seq1f1b.runtime.channels import Channels, Receive
from megatron.seq1f1b.runtime.messages import MessageBuffers, shares_memory
from megatron.seq1f1b.schedule import Action, ActionKind, Channel, Plan, channel_of


class Unit(NamedTuple):
    """What an action works on: one chunk of one microbatch on one virtual stage."""

    virtual_stage: int
    microbatch: int
    chunk: int


class Forwarded(NamedTuple):
    """What a unit's backward starts from."""

    stage_input: torch.Tensor | None
    """None on virtual stage 0."""
    output: torch.Tensor
    """Its graph alone, except on the last virtual stage: the data has gone to the next one."""
    output_grad: torch.Tensor | None
    """None on the last virtual stage, which has the loss."""


class StageProgram(Protocol):
    """The computation behind F, B, I and W; it knows the model, and nothing of the plan."""

    def forward(self, unit: Unit, stage_input: torch.Tensor | None) -> torch.Tensor:
        """The stage's output for the unit; that of the last virtual stage goes nowhere."""

    def backward(self, unit: Unit, forwarded: Forwarded) -> torch.Tensor | None:
        """Accumulate the weights' gradients; return the input's (None on virtual stage 0)."""

    def backward_input(self, unit: Unit, forwarded: Forwarded) -> torch.Tensor | None:
        """The input's gradient alone; the weights' wait for `backward_weight`."""

    def backward_weight(self, unit: Unit) -> None:
        """Accumulate the gradients that `backward_input` left for this unit."""

    def finish(self, unit: Unit) -> None:
        """The unit's forward (forward-only plans) or backward is done."""


class Observer(Protocol):
    """Is told of every action, at the moment; what a measurement gives to the executor."""

    def begin(self, action: Action) -> None:
        """The action is next; a compute action may still have to wait for a message."""

    def arrived(self, action: Action) -> None:
        """What a compute action needs is there, and it starts."""

    def end(self, action: Action) -> None:
        """The action is done."""


class Executor:
    """Runs one rank's actions of a plan that already holds its communication."""

    def __init__(
        self,
        *,
        plan: Plan,
        rank: int,
        chunks: Sequence[Chunk],
        program: StageProgram,
        channels: Channels | None,
        buffers: MessageBuffers,
        observer: Observer | None = None,
    ) -> None:
        self._plan = plan
        self._rank = rank
        self._chunks = chunks
        self._program = program
        self._channels = channels
        self._buffers = buffers
        self._observer = observer
        self._last_virtual_stage = plan.num_stages * plan.num_virtual_stages - 1
        self._arriving_inputs: dict[Unit, Receive] = {}
        self._arriving_grads: dict[Unit, Receive] = {}
        self._inputs: dict[Unit, torch.Tensor | None] = {}
        self._outputs: dict[Unit, torch.Tensor] = {}
        self._outgoing_outputs: dict[Unit, torch.Tensor] = {}
        self._outgoing_grads: dict[Unit, torch.Tensor] = {}
        self._local_outputs: dict[Unit, torch.Tensor] = {}
        self._local_grads: dict[Unit, torch.Tensor] = {}
        self._received: dict[Unit, list[torch.Tensor]] = defaultdict(list)
        self._methods: dict[ActionKind, Callable[[Unit], None]] = {
            ActionKind.F: self._forward,
            ActionKind.B: self._backward,
            ActionKind.I: self._backward_input,
            ActionKind.W: self._backward_weight,
            ActionKind.SEND_F: self._send_output,
            ActionKind.RECV_F: self._post_input,
            ActionKind.SEND_B: self._send_grad,
            ActionKind.RECV_B: self._post_grad,
        }

    def run(self) -> None:
        """Run the rank's actions once.

        Raises:
            StepError: a message did not arrive, or tensors were left over; names the action.
        """
        for action in self._plan.actions[self._rank]:
            if self._observer is not None:
                self._observer.begin(action)
            with _profiler_range(action):
                self._run(action)
            if self._observer is not None:
                self._observer.end(action)
        if self._channels is not None:
            self._channels.drain()
        self._check_empty()

    def _run(self, action: Action) -> None:
        try:
            self._methods[action.kind](Unit(action.virtual_stage, action.microbatch, action.chunk))
        except StepError as error:
            raise StepError(f"{action} on stage {self._rank}: {error}") from error
        except Exception as error:  # of the model, or memory that ran out: its traceback knows no action
            if hasattr(error, "add_note"):  # from Python 3.11 on
                error.add_note(f"in {action} on stage {self._rank} of plan {self._plan.name}")
            raise

    # --- compute

    def _forward(self, unit: Unit) -> None:
        stage_input = self._take_input(unit)
        self._arrived(ActionKind.F, unit)
        output = self._program.forward(unit, stage_input)
        if unit.virtual_stage != self._last_virtual_stage:
            self._hand_over_output(unit, output)
        if self._plan.forward_only:
            self._finish(unit)
        else:
            self._inputs[unit] = stage_input
            self._outputs[unit] = output

    def _backward(self, unit: Unit) -> None:
        forwarded = self._take_forwarded(unit)
        self._arrived(ActionKind.B, unit)
        input_grad = self._program.backward(unit, forwarded)
        self._hand_over_grad(unit, input_grad)
        self._finish(unit)

    def _backward_input(self, unit: Unit) -> None:
        forwarded = self._take_forwarded(unit)
        self._arrived(ActionKind.I, unit)
        input_grad = self._program.backward_input(unit, forwarded)
        self._hand_over_grad(unit, input_grad)

    def _backward_weight(self, unit: Unit) -> None:
        self._arrived(ActionKind.W, unit)
        self._program.backward_weight(unit)
        self._finish(unit)

    def _finish(self, unit: Unit) -> None:
        self._program.finish(unit)
        for buffer in self._received.pop(unit, ()):
            self._buffers.give(self._chunks[unit.chunk], buffer)

    # --- what an action needs

    def _take_input(self, unit: Unit) -> torch.Tensor | None:
        if unit.virtual_stage == 0:
            return None
        if self._is_local(unit.virtual_stage - 1):
            stage_input = self._local_outputs.pop(unit)
        else:
            stage_input = self._arriving_inputs.pop(unit).wait()
        return stage_input.requires_grad_(not self._plan.forward_only)

    def _take_forwarded(self, unit: Unit) -> Forwarded:
        if unit.virtual_stage == self._last_virtual_stage:
            output_grad = None
        elif self._is_local(unit.virtual_stage + 1):
            output_grad = self._local_grads.pop(unit)
        else:
            output_grad = self._arriving_grads.pop(unit).wait()
        return Forwarded(self._inputs.pop(unit), self._outputs.pop(unit), output_grad)

    def _arrived(self, kind: ActionKind, unit: Unit) -> None:
        if self._observer is not None:
            self._observer.arrived(Action(kind, *unit))

    # --- what an action leaves

    def _hand_over_output(self, unit: Unit, output: torch.Tensor) -> None:
        """Give the output's data to the next virtual stage; only its graph stays here.

        The message holds the storage until it has been sent, so that nothing waits for the send
        and nothing keeps the data longer.
        """
        message = self._outliving(unit, output.detach())
        if not self._plan.forward_only:
            output.data = torch.empty(1, dtype=output.dtype, device=output.device)
        following = unit._replace(virtual_stage=unit.virtual_stage + 1)
        if self._is_local(following.virtual_stage):
            self._local_outputs[following] = message
        else:
            self._outgoing_outputs[unit] = message

    def _hand_over_grad(self, unit: Unit, input_grad: torch.Tensor | None) -> None:
        if unit.virtual_stage == 0:
            return
        assert input_grad is not None, f"virtual stage {unit.virtual_stage} gave no input gradient"
        input_grad = self._outliving(unit, input_grad)
        preceding = unit._replace(virtual_stage=unit.virtual_stage - 1)
        if self._is_local(preceding.virtual_stage):
            self._local_grads[preceding] = input_grad
        else:
            self._outgoing_grads[unit] = input_grad

    def _outliving(self, unit: Unit, message: torch.Tensor) -> torch.Tensor:
        """The message, copied where a stage without layers passes on the very buffer it received."""
        received = self._received.get(unit, ())
        return message.clone() if any(shares_memory(message, each) for each in received) else message

    def _is_local(self, virtual_stage: int) -> bool:
        return virtual_stage % self._plan.num_stages == self._rank

    # --- communication

    def _post_input(self, unit: Unit) -> None:
        self._arriving_inputs[unit] = self._post(Action(ActionKind.RECV_F, *unit))

    def _post_grad(self, unit: Unit) -> None:
        self._arriving_grads[unit] = self._post(Action(ActionKind.RECV_B, *unit))

    def _send_output(self, unit: Unit) -> None:
        self._send(Action(ActionKind.SEND_F, *unit), self._outgoing_outputs.pop(unit))

    def _send_grad(self, unit: Unit) -> None:
        self._send(Action(ActionKind.SEND_B, *unit), self._outgoing_grads.pop(unit))

    def _post(self, action: Action) -> Receive:
        assert self._channels is not None
        buffer = self._buffers.take(self._chunks[action.chunk])
        self._received[Unit(*action[1:])].append(buffer)
        return self._channels.post_receive(channel_of(action, self._plan), buffer, what=str(action))

    def _send(self, action: Action, message: torch.Tensor) -> None:
        assert self._channels is not None
        self._channels.send(channel_of(action, self._plan), message, what=str(action))

    def _check_empty(self) -> None:
        left = {
            name.strip("_"): sorted(buffers)
            for name, buffers in vars(self).items()
            if isinstance(buffers, dict) and buffers and name != "_methods"
        }
        if left:
            raise StepError(
                f"pipeline rank {self._rank} ended its step of plan {self._plan.name} with tensors "
                f"left over: {left}; the plan produces what it never uses"
            )


def _profiler_range(action: Action) -> AbstractContextManager[object]:
    """A range with the action's text, where a profiler looks: making one costs 20 microseconds."""
    if torch.autograd._profiler_enabled():
        return torch.profiler.record_function(str(action))
    return nullcontext()


def channels_of(plan: Plan) -> set[Channel]:
    """Every channel that a plan with communication uses, over all ranks."""
    return {channel_of(action, plan) for actions in plan.actions for action in actions if action.kind.is_send}
