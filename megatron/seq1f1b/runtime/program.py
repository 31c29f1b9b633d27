"""The computation behind a plan's actions: Megatron's forward step, chunk by chunk.

Megatron-Core's `forward_step` divides by a number of microbatches; a chunk of s of S tokens passes
m S / s, so that what is averaged per chunk (auxiliary losses) is weighted by its share of the
tokens. `loss.py` says what becomes of the loss itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Protocol

import torch

from megatron.seq1f1b.chunk import Chunk
from megatron.seq1f1b.runtime.executor import Unit
from megatron.seq1f1b.runtime.loss import ForwardStep, TokenWeights
from megatron.seq1f1b.runtime.microbatches import Batch, Microbatches
from megatron.seq1f1b.schedule import ActionKind, Plan
from megatron.seq1f1b.upstream.split_linear import WeightGradients, split_backward
from megatron.seq1f1b.upstream.step import custom_backward, forward_step, get_model_config


class PrefixStates(Protocol):
    """What the chunks of one microbatch share on one virtual stage: the KV cache."""

    def params(self, unit: Unit) -> object:
        """What the model takes as `packed_seq_params` for this unit."""

    def release(self, unit: Unit) -> None:
        """The unit's microbatch is done on its virtual stage."""

    def check_empty(self) -> None:
        """StepError where a state was never released."""


class MegatronProgram:
    """F, B, I and W of the model parts of one pipeline rank, for one step."""

    def __init__(
        self,
        *,
        plan: Plan,
        rank: int,
        chunks: Sequence[Chunk],
        parts: Sequence[torch.nn.Module],
        microbatches: Sequence[Microbatches],
        forward_step_func: ForwardStep,
        deliver: Callable[[Batch, torch.nn.Module, object], Batch],
        prefix_states: PrefixStates,
    ) -> None:
        self._plan = plan
        self._chunks = chunks
        self._parts = parts
        self._microbatches = microbatches
        self._forward_step_func = forward_step_func
        self._deliver = deliver
        self._prefix_states = prefix_states
        self._config = get_model_config(parts[0])
        self._logs: dict[int, list[Mapping[str, torch.Tensor]]] = {}
        self.num_tokens = torch.zeros((), dtype=torch.long)
        self._is_split = any(action.kind is ActionKind.W for action in plan.actions[rank])
        self._weight_gradients = WeightGradients()
        self._gradient_sync = _GradientSync(parts, plan, rank)

    def forward(self, unit: Unit, stage_input: torch.Tensor | None) -> torch.Tensor:
        """The stage's output, or on the last virtual stage the chunk's share of the loss."""
        part = self._plan.model_part_of(unit.virtual_stage)
        microbatches, model = self._microbatches[part], self._parts[part]
        scale = self._chunks[-1].stop / self._chunks[unit.chunk].length
        weigh = TokenWeights(microbatches.loss_mask(unit.microbatch), scale, self._config)
        batch = microbatches.chunk_of(unit.microbatch, unit.chunk)
        batch = self._deliver(batch, model, self._prefix_states.params(unit))
        log: list[Mapping[str, torch.Tensor]] = []
        output, num_tokens = forward_step(
            weigh.wrap(self._forward_step_func),
            iter([batch]),
            model,
            self._plan.num_microbatches * scale,
            stage_input,
            log,
            self._config,
            cp_group_size=1,
            is_first_microbatch=unit.microbatch == 0 and unit.chunk == 0,
            current_microbatch=unit.microbatch,
            is_last_stage=unit.virtual_stage == self._plan.last_virtual_stage,
        )
        self._logs.setdefault(unit.microbatch, []).extend(log)
        self.num_tokens = self.num_tokens + num_tokens.to(self.num_tokens.device)
        return output

    def backward(
        self,
        unit: Unit,
        stage_input: torch.Tensor | None,
        output: torch.Tensor,
        output_grad: torch.Tensor | None,
    ) -> torch.Tensor | None:
        """Gradients of the part's weights accumulate; returns the gradient of its input."""
        if self._is_split:
            input_grad = self.backward_input(unit, stage_input, output, output_grad)
            self.backward_weight(unit)
            return input_grad
        return self._run_backward(unit, stage_input, output, output_grad)

    def backward_input(
        self,
        unit: Unit,
        stage_input: torch.Tensor | None,
        output: torch.Tensor,
        output_grad: torch.Tensor | None,
    ) -> torch.Tensor | None:
        """The gradient of the part's input; products of its linear layers' weights wait."""
        with self._weight_gradients.collect(unit):
            return self._run_backward(unit, stage_input, output, output_grad)

    def backward_weight(self, unit: Unit) -> None:
        """The weights' gradients that `backward_input` left for this unit."""
        is_last = self._gradient_sync.last_weight.get(unit.virtual_stage) == unit
        self._weight_gradients.run(unit, is_last=is_last)

    def _run_backward(
        self,
        unit: Unit,
        stage_input: torch.Tensor | None,
        output: torch.Tensor,
        output_grad: torch.Tensor | None,
    ) -> torch.Tensor | None:
        self._gradient_sync.before_backward(unit)
        if output_grad is None and self._config.grad_scale_func is not None:
            output = self._config.grad_scale_func(output)
        custom_backward(output, output_grad)
        return None if stage_input is None else stage_input.grad

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within, the model parts compute as the plan's actions need it."""
        with ExitStack() as stack:
            if self._is_split:
                stack.enter_context(split_backward(self._parts, self._weight_gradients))
            yield

    def finish(self, unit: Unit) -> None:
        """Release the microbatch's KV cache after its last unit."""
        last = self._chunks[-1].index if self._plan.forward_only else 0
        if unit.chunk == last:
            self._prefix_states.release(unit)

    def losses(self) -> list[dict[str, torch.Tensor]]:
        """Per microbatch, what the loss function reported, summed over its chunks."""
        return [_sum_logs(logs) for _, logs in sorted(self._logs.items()) if logs]


class _GradientSync:
    """Holds back the data-parallel reduction of each part until its last backward.

    With overlapped reduction Megatron-Core's DDP starts to reduce a bucket when all its gradients
    have been computed once, so it must know which backward is the last. Where backward is split,
    that is the last I; of the weight gradients that wait, only the last W's is shown to DDP.
    """

    def __init__(self, parts: Sequence[torch.nn.Module], plan: Plan, rank: int) -> None:
        self._last_backward = _last_units(plan, rank, ActionKind.B, ActionKind.I)
        self.last_weight = _last_units(plan, rank, ActionKind.B, ActionKind.W)
        self._held: dict[int, AbstractContextManager[object]] = {}
        for virtual_stage in self._last_backward:
            no_sync = getattr(parts[plan.model_part_of(virtual_stage)], "no_sync", nullcontext)
            self._held[virtual_stage] = no_sync()
            self._held[virtual_stage].__enter__()

    def before_backward(self, unit: Unit) -> None:
        """Let the part reduce its gradients if `unit` is its last backward."""
        if self._last_backward.get(unit.virtual_stage) == unit:
            self._held.pop(unit.virtual_stage).__exit__(None, None, None)


def _last_units(plan: Plan, rank: int, *kinds: ActionKind) -> dict[int, Unit]:
    """For every virtual stage of a rank, the unit of its last action of these kinds."""
    return {action.virtual_stage: Unit(*action[1:]) for action in plan.actions[rank] if action.kind in kinds}


def _sum_logs(logs: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([log[name] for log in logs]).sum(0) for name in logs[0]}
