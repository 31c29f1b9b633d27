"""A stand-in for Megatron-Core's `forward_backward_func` that executes chunked plans.

Keyword-compatible with what `get_forward_backward_func()` returns; the plan for a number of
microbatches is made, checked and given its communication once, and then executed every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext

import torch

from megatron.seq1f1b.chunk import Boundaries, Chunk, chunks_from
from megatron.seq1f1b.errors import ConfigurationError
from megatron.seq1f1b.runtime.channels import Channels
from megatron.seq1f1b.runtime.executor import Executor, MessageShape, Observer, channels_of
from megatron.seq1f1b.runtime.loss import ForwardStep
from megatron.seq1f1b.runtime.microbatches import Batch, BatchFormat, Microbatches
from megatron.seq1f1b.runtime.program import MegatronProgram, PrefixStates
from megatron.seq1f1b.schedule import Plan
from megatron.seq1f1b.upstream.parallel import pipeline_group, pipeline_rank
from megatron.seq1f1b.upstream.step import get_model_config

MakePlan = Callable[[int, bool], Plan]
"""(number of microbatches, forward only) to a validated plan with communication."""

MakePrefixStates = Callable[[Sequence[Chunk]], PrefixStates]


class ChunkedSchedule:
    """`forward_backward_func` for one way of cutting sequences and ordering chunks."""

    def __init__(
        self,
        *,
        make_plan: MakePlan,
        boundaries: Boundaries,
        batch_format: BatchFormat,
        make_prefix_states: MakePrefixStates,
        observer: Observer | None = None,
    ) -> None:
        self._make_plan = make_plan
        self._chunks = chunks_from(boundaries)
        self._batch_format = batch_format
        self._make_prefix_states = make_prefix_states
        self._plans: dict[tuple[int, bool], Plan] = {}
        self._channels: Channels | None = None
        self.observer = observer
        """Told of every action of this rank; for measurements."""

    def plan_for(self, num_microbatches: int, *, forward_only: bool) -> Plan:
        """The plan that a step with so many microbatches executes."""
        key = (num_microbatches, forward_only)
        if key not in self._plans:
            self._plans[key] = self._make_plan(num_microbatches, forward_only)
        return self._plans[key]

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
    ) -> list[dict[str, torch.Tensor]]:
        """Run one step; returns the loss dictionaries, one per microbatch, on the last stage.

        Raises:
            ConfigurationError: an option that chunked schedules do not serve.
            StepError: a neighbour did not answer, or buffers were left over.
        """
        self._check_length(seq_length)
        parts = list(model) if isinstance(model, Sequence) else [model]
        _refuse(
            defer_embedding_wgrad_compute=get_model_config(parts[0]).defer_embedding_wgrad_compute,
            decoder_seq_length=decoder_seq_length not in (None, seq_length),
            collect_non_loss_data=collect_non_loss_data,
            adjust_tensor_shapes_fn=adjust_tensor_shapes_fn is not None,
            p2p_communicator=p2p_communicator is not None,
            pg_collection=pg_collection is not None,
        )
        iterators = list(data_iterator) if isinstance(data_iterator, Sequence) else [data_iterator]
        plan = self.plan_for(num_microbatches, forward_only=forward_only)
        prefix_states = self._make_prefix_states(self._chunks)
        program = MegatronProgram(
            plan=plan,
            rank=pipeline_rank(),
            chunks=self._chunks,
            parts=parts,
            microbatches=[
                Microbatches(iterator, chunks=self._chunks, batch_format=self._batch_format)
                for iterator in iterators
            ],
            forward_step_func=forward_step_func,
            deliver=self._batch_format.deliver,
            prefix_states=prefix_states,
        )
        self._execute(plan, program, _message_maker(parts[0], micro_batch_size))
        prefix_states.check_empty()
        if not forward_only:
            _finalize(parts, program, force_all_reduce)
        return program.losses()

    def _execute(self, plan: Plan, program: MegatronProgram, new_message: MessageShape) -> None:
        executor = Executor(
            plan=plan,
            rank=pipeline_rank(),
            chunks=self._chunks,
            program=program,
            channels=self._open_channels(plan),
            new_message=new_message,
            observer=self.observer,
        )
        gradients = torch.no_grad() if plan.forward_only else nullcontext()
        with gradients, program.running():
            executor.run()

    def close(self) -> None:
        """Give the channels back."""
        if self._channels is not None:
            self._channels.close()
            self._channels = None

    def _check_length(self, seq_length: int) -> None:
        if seq_length != self._chunks[-1].stop:
            raise ConfigurationError(
                f"a step of {seq_length} tokens was asked for, but the chunk boundaries end at "
                f"{self._chunks[-1].stop}; make a schedule for each sequence length"
            )

    def _open_channels(self, plan: Plan) -> Channels | None:
        if plan.num_stages == 1:
            return None
        if self._channels is None:
            training_plan = self.plan_for(plan.num_microbatches, forward_only=False)
            self._channels = Channels(channels_of(training_plan), pipeline_group=pipeline_group())
        return self._channels


def _refuse(**asked: bool) -> None:
    names = [name for name, is_asked in asked.items() if is_asked]
    if names:
        raise ConfigurationError(
            f"chunked schedules do not serve {', '.join(names)}; leave it out, or use Megatron-Core's "
            "own schedule"
        )


def _finalize(
    parts: Sequence[torch.nn.Module], program: MegatronProgram, force_all_reduce: bool | None
) -> None:
    """Megatron-Core's reductions over data, tensor and embedding groups, where they are set."""
    config = get_model_config(parts[0])
    if config.finalize_model_grads_func is not None:
        config.finalize_model_grads_func(
            parts,
            program.num_tokens if config.calculate_per_token_loss else None,
            force_all_reduce=force_all_reduce,
        )


def _message_maker(part: torch.nn.Module, micro_batch_size: int) -> MessageShape:
    """Buffers for a chunk's hidden states: [tokens / tensor-sequence parallelism, batch, hidden]."""
    config = get_model_config(part)
    shards = config.tensor_model_parallel_size if config.sequence_parallel else 1
    device = next(part.parameters()).device

    def new_message(chunk: Chunk) -> torch.Tensor:
        shape = (chunk.length // shards, micro_batch_size, config.hidden_size)
        return torch.empty(shape, dtype=config.pipeline_dtype, device=device)

    return new_message
