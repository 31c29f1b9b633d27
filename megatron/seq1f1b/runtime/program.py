"""The computation behind a plan's actions: Megatron's forward step, chunk by chunk.

The forward step runs once for every chunk, on its whole microbatch; `model_inputs.py` cuts what it
gives to the model, and `loss.py` calls its loss function on the outputs of all chunks together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import torch

from megatron.seq1f1b.chunk import Chunk
from megatron.seq1f1b.runtime.executor import Forwarded, Unit
from megatron.seq1f1b.runtime.gradient_sync import GradientSync
from megatron.seq1f1b.runtime.loss import ForwardStep, LossFunction, SequenceLosses
from megatron.seq1f1b.runtime.microbatches import Batch, Microbatches
from megatron.seq1f1b.runtime.model_inputs import ChunkParams, ModelInputs
from megatron.seq1f1b.schedule import ActionKind, Plan
from megatron.seq1f1b.upstream.auxiliary_losses import AuxiliaryLosses
from megatron.seq1f1b.upstream.split_linear import WeightGradients, split_backward
from megatron.seq1f1b.upstream.step import (
    check_first_val_step,
    custom_backward,
    forward_step,
    get_model_config,
)


class PrefixStates(ChunkParams, Protocol):
    """The KV caches of a step: made for the model's parameters, released when they are done."""

    def release(self, unit: Unit) -> None:
        """The unit's microbatch is done on its virtual stage."""

    def check_empty(self) -> None:
        """StepError where a state was never released."""


class MegatronProgram:
    """F, B, I and W of the model parts of one pipeline rank, for one step.

    Args:
        plan: of all ranks.
        rank: which one's this is.
        chunks: of every sequence.
        parts: the rank's model parts, as wrapped as they are.
        data_iterators: one per model part, None where it reads no data.
        forward_step_func: the caller's, in Megatron's form.
        prefix_states: the KV caches of this step.
        micro_batch_size: sequences of a microbatch; None leaves them unchecked.
        collect_non_loss_data: call loss functions for data instead of losses.
        first_val_step: as Megatron-Core's schedule functions take it.
    """

    def __init__(
        self,
        *,
        plan: Plan,
        rank: int,
        chunks: Sequence[Chunk],
        parts: Sequence[torch.nn.Module],
        data_iterators: Sequence[Iterator[Batch] | None],
        forward_step_func: ForwardStep,
        prefix_states: PrefixStates,
        micro_batch_size: int | None = None,
        collect_non_loss_data: bool = False,
        first_val_step: bool | None = None,
    ) -> None:
        self._plan = plan
        self._chunks = chunks
        self._parts = parts
        self._starts = _starts_of_parts(plan, rank)
        self._microbatches = [
            Microbatches(each, starts=starts, num_chunks=len(chunks))
            for each, starts in zip(data_iterators, self._starts, strict=True)
        ]
        self._forward_step_func = forward_step_func
        self._prefix_states = prefix_states
        self._first_val_step = first_val_step
        self._config = get_model_config(parts[0])
        self._inputs = ModelInputs(parts, chunks, prefix_states, micro_batch_size=micro_batch_size)
        self.losses = SequenceLosses(
            chunks,
            num_microbatches=plan.num_microbatches,
            config=self._config,
            has_backward=not plan.forward_only,
            collect_non_loss_data=collect_non_loss_data,
        )
        self._is_split = any(action.kind is ActionKind.W for action in plan.actions[rank])
        self._weight_gradients = WeightGradients()
        self._gradient_sync = GradientSync(parts, plan, rank, self._config)
        self._auxiliary_losses = AuxiliaryLosses(parts, chunks, num_microbatches=plan.num_microbatches)

    def forward(self, unit: Unit, stage_input: torch.Tensor | None) -> torch.Tensor:
        """The stage's output; on the last virtual stage the loss is computed after the last chunk."""
        self._gradient_sync.before_forward(unit)
        self._auxiliary_losses.enter(unit)
        part = self._plan.model_part_of(unit.virtual_stage)
        model = self._parts[part]
        loss_functions: list[LossFunction] = []

        def step(*args: Any) -> tuple[torch.Tensor, LossFunction]:
            output, loss_function = self._forward_step_func(*args)
            loss_functions.append(loss_function)
            return output, loss_function

        is_first = unit.microbatch == self._starts[part][0] and unit.chunk == 0
        with self._inputs.cut_to(unit):
            output, _ = forward_step(
                step,
                self._microbatches[part].reader(unit.microbatch, unit.chunk),
                model,
                self._plan.num_microbatches,
                stage_input,
                [],
                self._config,
                cp_group_size=1,
                is_first_microbatch=check_first_val_step(
                    self._first_val_step, self._plan.forward_only, is_first
                ),
                current_microbatch=unit.microbatch,
                is_last_stage=False,  # it would call the loss function on the chunk
            )
        if unit.virtual_stage == self._plan.last_virtual_stage:
            self.losses.add(unit.microbatch, output, loss_functions[0], model)
        return output

    def backward(self, unit: Unit, forwarded: Forwarded) -> torch.Tensor | None:
        """Gradients of the part's weights accumulate; returns the gradient of its input."""
        if self._is_split:
            input_grad = self.backward_input(unit, forwarded)
            self.backward_weight(unit)
            return input_grad
        input_grad = self._run_backward(unit, forwarded)
        self._gradient_sync.after_weights(unit)
        return input_grad

    def backward_input(self, unit: Unit, forwarded: Forwarded) -> torch.Tensor | None:
        """The gradient of the part's input; products of its linear layers' weights wait."""
        with self._weight_gradients.collect(unit):
            return self._run_backward(unit, forwarded)

    def backward_weight(self, unit: Unit) -> None:
        """The weights' gradients that `backward_input` left for this unit."""
        is_last = self._gradient_sync.last_weight.get(unit.virtual_stage) == unit
        self._weight_gradients.run(unit, is_last=is_last)
        self._gradient_sync.after_weights(unit)

    def _run_backward(self, unit: Unit, forwarded: Forwarded) -> torch.Tensor | None:
        stage_input, output, output_grad = forwarded
        timers = self._config.timers
        if timers is not None:
            timers("backward-compute", log_level=2).start()
        if output_grad is None:
            # A loss function may hold parameters too: while reduction is still held back.
            self.losses.start_backward(unit.microbatch)
        self._gradient_sync.before_backward(unit)
        self._auxiliary_losses.enter_backward(unit)
        if output_grad is None:
            torch.autograd.backward(output, self.losses.grad_of(unit.microbatch, unit.chunk))
        else:
            custom_backward(output, output_grad)
        if timers is not None:
            timers("backward-compute").stop()
        if stage_input is None:
            return None
        # The model part holds its last input until it gets another one; not its gradient with it.
        input_grad, stage_input.grad = stage_input.grad, None
        return input_grad

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within, the model parts compute as the plan's actions need it."""
        with ExitStack() as stack:
            stack.enter_context(self._inputs.installed())
            stack.enter_context(self._gradient_sync.active())
            if not self._plan.forward_only:
                stack.enter_context(self._auxiliary_losses.installed())
            if self._is_split:
                stack.enter_context(split_backward(self._parts, self._weight_gradients))
            yield

    def finish(self, unit: Unit) -> None:
        """Release the microbatch's KV cache after its last unit."""
        last = self._chunks[-1].index if self._plan.forward_only else 0
        if unit.chunk == last:
            self._prefix_states.release(unit)
            self._auxiliary_losses.release(unit)


def _starts_of_parts(plan: Plan, rank: int) -> list[list[int]]:
    """By model part of the rank, the microbatches in the order in which it starts them."""
    starts: list[list[int]] = [[] for _ in range(plan.num_virtual_stages)]
    for kind, virtual_stage, microbatch, chunk in plan.actions[rank]:
        if kind is ActionKind.F and chunk == 0:
            starts[plan.model_part_of(virtual_stage)].append(microbatch)
    return starts
