"""A stand-in for Megatron-Core's `forward_backward_func` that executes chunked plans.

Keyword-compatible with what `get_forward_backward_func()` returns; the plan for a number of
microbatches is made, checked and given its communication once, and then executed every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist

from megatron.seq1f1b.chunk import Boundaries, Chunk, chunks_from
from megatron.seq1f1b.errors import ConfigurationError
from megatron.seq1f1b.runtime.channels import Channels
from megatron.seq1f1b.runtime.executor import Executor, Observer, channels_of
from megatron.seq1f1b.runtime.loss import ForwardStep
from megatron.seq1f1b.runtime.messages import MessageBuffers, NewMessage
from megatron.seq1f1b.runtime.microbatches import Batch
from megatron.seq1f1b.runtime.program import MegatronProgram, PrefixStates
from megatron.seq1f1b.runtime.unserved import refuse_in_one_queue, refuse_keywords, refuse_unserved
from megatron.seq1f1b.schedule import Plan
from megatron.seq1f1b.upstream.parallel import Groups, groups_of_step
from megatron.seq1f1b.upstream.step import get_model_config

MakePlan = Callable[[int, bool], Plan]
"""(number of microbatches, forward only) to a validated plan with communication."""

MakePrefixStates = Callable[[Sequence[Chunk]], PrefixStates]


class Connections:
    """The channels of a pipeline, opened at the first step that needs them.

    Schedules for several sequence lengths may share them.
    """

    def __init__(self) -> None:
        self._channels: Channels | None = None

    def open(self, plan: Plan, group: dist.ProcessGroup) -> Channels | None:
        """The channels that a training plan uses; None without neighbours. Collective the first time."""
        if plan.num_stages > 1 and self._channels is None:
            self._channels = Channels(channels_of(plan), pipeline_group=group)
        return self._channels

    def close(self) -> None:
        """Give the process groups back; collective over each channel's two ends."""
        if self._channels is not None:
            self._channels.close()
            self._channels = None


class ChunkedSchedule:
    """`forward_backward_func` for one way of cutting sequences and ordering chunks."""

    def __init__(
        self,
        *,
        make_plan: MakePlan,
        boundaries: Boundaries,
        make_prefix_states: MakePrefixStates,
        observer: Observer | None = None,
        connections: Connections | None = None,
    ) -> None:
        self._make_plan = make_plan
        self._chunks = chunks_from(boundaries)
        self._make_prefix_states = make_prefix_states
        self._plans: dict[tuple[int, bool], Plan] = {}
        self._connections = connections or Connections()
        self._buffers: dict[object, MessageBuffers] = {}
        self.observer = observer
        """Told of every action of this rank; for measurements."""

    def plan_for(self, num_microbatches: int, *, forward_only: bool) -> Plan:
        """The plan that a step with so many microbatches executes."""
        key = (num_microbatches, forward_only)
        if key not in self._plans:
            plan = self._make_plan(num_microbatches, forward_only)
            refuse_in_one_queue(plan)
            self._plans[key] = plan
        return self._plans[key]

    @property
    def num_receive_buffers(self) -> int:
        """Receive buffers allocated so far; steps after the first of a shape add none."""
        return sum(buffers.num_allocated for buffers in self._buffers.values())

    def __call__(
        self,
        *,
        forward_step_func: ForwardStep,
        data_iterator: Iterator[Batch] | Sequence[Iterator[Batch] | None] | None,
        model: torch.nn.Module | Sequence[torch.nn.Module],
        num_microbatches: int,
        seq_length: int,
        micro_batch_size: int,
        decoder_seq_length: int | None = None,
        forward_only: bool = False,
        collect_non_loss_data: bool = False,
        first_val_step: bool | None = None,
        adjust_tensor_shapes_fn: object = None,
        p2p_communicator: object = None,
        pg_collection: object = None,
        force_all_reduce: bool | None = False,
    ) -> list[Any]:
        """Run one step; returns what the loss functions logged, one per microbatch, on the last stage.

        Raises:
            ConfigurationError: an option that chunked schedules do not serve.
            DataError: the data iterator ended.
            StepError: a neighbour did not answer, or buffers were left over.
        """
        parts = _listed(model)
        iterators = _listed(data_iterator)
        groups = groups_of_step(p2p_communicator, pg_collection)
        config = get_model_config(parts[0])
        self._check_length(seq_length)
        refuse_unserved(config, num_stages=groups.pp.size(), num_parts=len(parts))
        refuse_keywords(
            decoder_seq_length=decoder_seq_length not in (None, seq_length),
            adjust_tensor_shapes_fn=adjust_tensor_shapes_fn is not None,
        )
        plan = self.plan_for(num_microbatches, forward_only=forward_only)
        _check_parts(plan, parts, iterators, groups.pp.size())
        timers = config.timers
        if timers is not None:
            timers("forward-backward", log_level=1).start(barrier=config.barrier_with_L1_time)
        prefix_states = self._make_prefix_states(self._chunks)
        program = MegatronProgram(
            plan=plan,
            rank=groups.pp.rank(),
            chunks=self._chunks,
            parts=parts,
            data_iterators=iterators,
            forward_step_func=forward_step_func,
            prefix_states=prefix_states,
            micro_batch_size=micro_batch_size,
            collect_non_loss_data=collect_non_loss_data,
            first_val_step=first_val_step,
        )
        self._execute(plan, program, groups, _message_maker(parts[0], micro_batch_size))
        prefix_states.check_empty()
        if not forward_only:
            _finalize(parts, program, groups, force_all_reduce)
        if timers is not None:
            timers("forward-backward").stop()
        return program.losses.logs()

    def _execute(
        self,
        plan: Plan,
        program: MegatronProgram,
        groups: Groups,
        message: tuple[object, NewMessage],
    ) -> None:
        shape, new_message = message
        executor = Executor(
            plan=plan,
            rank=groups.pp.rank(),
            chunks=self._chunks,
            program=program,
            channels=self._connections.open(self._training_plan(plan), groups.pp),
            buffers=self._buffers.setdefault(shape, MessageBuffers(new_message)),
            observer=self.observer,
        )
        gradients = torch.no_grad() if plan.forward_only else nullcontext()
        with gradients, program.running():
            executor.run()

    def _training_plan(self, plan: Plan) -> Plan:
        """The plan whose channels serve forward-only steps too."""
        return self.plan_for(plan.num_microbatches, forward_only=False)

    def close(self) -> None:
        """Give the channels back."""
        self._connections.close()

    def _check_length(self, seq_length: int) -> None:
        if seq_length != self._chunks[-1].stop:
            raise ConfigurationError(
                f"a step of {seq_length} tokens was asked for, but the chunk boundaries end at "
                f"{self._chunks[-1].stop}; make a schedule for each sequence length"
            )


def _listed(given: Any) -> list[Any]:
    """Megatron-Core's functions take one object, or a list with one per model part."""
    return list(given) if isinstance(given, list | tuple) else [given]


def _check_parts(
    plan: Plan, parts: Sequence[torch.nn.Module], iterators: Sequence[object], num_stages: int
) -> None:
    """Refuse lists that do not fit the plan."""
    if (num_stages, len(parts)) != (plan.num_stages, plan.num_virtual_stages):
        raise ConfigurationError(
            f"the plan {plan.name} is for {plan.num_stages} stages of {plan.num_virtual_stages} model parts, "
            f"but there are {num_stages} pipeline ranks and {len(parts)} model parts were given"
        )
    if len(iterators) != len(parts):
        raise ConfigurationError(
            f"{len(iterators)} data iterators were given for {len(parts)} model parts; give a list of one "
            "per part, None for parts that read no data"
        )


def _finalize(
    parts: Sequence[torch.nn.Module],
    program: MegatronProgram,
    groups: Groups,
    force_all_reduce: bool | None,
) -> None:
    """Megatron-Core's reductions over data, tensor and embedding groups, where they are set."""
    config = get_model_config(parts[0])
    if config.finalize_model_grads_func is None:
        return
    num_tokens = program.losses.num_tokens
    if num_tokens is None:
        num_tokens = torch.zeros((), dtype=torch.int, device=next(parts[0].parameters()).device)
    config.finalize_model_grads_func(
        parts,
        num_tokens if config.calculate_per_token_loss else None,
        pg_collection=groups,
        force_all_reduce=force_all_reduce,
    )


def _message_maker(part: torch.nn.Module, micro_batch_size: int) -> tuple[object, NewMessage]:
    """What buffers for hidden states depend on besides the chunk, and what makes one.

    Their shape is [tokens / tensor-sequence parallelism, batch, hidden].
    """
    config = get_model_config(part)
    shards = config.tensor_model_parallel_size if config.sequence_parallel else 1
    device = next(part.parameters()).device
    key = (shards, micro_batch_size, config.hidden_size, config.pipeline_dtype, device)

    def new_message(chunk: Chunk) -> torch.Tensor:
        shape = (chunk.length // shards, micro_batch_size, config.hidden_size)
        return torch.empty(shape, dtype=config.pipeline_dtype, device=device)

    return key, new_message
