"""Runs the plan of every stage through the real model code, without devices, counting bytes.

Each pipeline rank is played by a fork of this process: fake process group, fake tensors, the run's own
model parts, plan, executor and KV caches. Neighbours answer at once with tensors of the right shape.
Only as many microbatches are run as are alive when the plan's occupancy peaks; the rest of a step
repeats them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from unittest import mock

import torch
from megatron.core import parallel_state

from megatron.seq1f1b.chunk import Chunk, chunks_from
from megatron.seq1f1b.model.prefix_states import KVCachePool
from megatron.seq1f1b.planning.balanced_experts import balanced_experts
from megatron.seq1f1b.planning.fake_stage import fake_rank, zeros_like_tokens
from megatron.seq1f1b.planning.flash_shapes import FlashShapes, dropout, rms_norm
from megatron.seq1f1b.planning.forked import map_in_forks
from megatron.seq1f1b.planning.from_run import (
    RunLike,
    allocator_overhead_of,
    is_mixed_precision,
    update_memory_of,
)
from megatron.seq1f1b.planning.live_bytes import POOLED, Category, LiveBytes
from megatron.seq1f1b.planning.memory_report import MemoryReport, StageMemory
from megatron.seq1f1b.planning.occupancy import first_microbatches, microbatches_until_peak
from megatron.seq1f1b.runtime.executor import Executor, Forwarded, StageProgram, Unit
from megatron.seq1f1b.runtime.messages import MessageBuffers
from megatron.seq1f1b.runtime.microbatches import Batch
from megatron.seq1f1b.runtime.program import MegatronProgram
from megatron.seq1f1b.schedule import Action, ActionKind, Channel, Plan

_ForwardStep = Callable[..., tuple[torch.Tensor, Callable[..., tuple[object, ...]]]]


def dry_run(
    run: RunLike,
    *,
    build_parts: Callable[[], Sequence[torch.nn.Module]],
    forward_step: _ForwardStep,
) -> MemoryReport:
    """What every stage of a run will hold, from the real model code on fake tensors.

    Args:
        run: a checked run of any world size; this process must not have joined a process group.
        build_parts: makes the model parts of the current rank in their precision, as the run would.
        forward_step: the run's, in Megatron's form.

    Raises:
        ConfigurationError: this process has joined a process group already.
    """
    plan = run.make_plan(run.layout.num_microbatches, False)
    stages = map_in_forks(
        lambda rank: _Stage(run, plan, rank).memory(build_parts, forward_step), range(plan.num_stages)
    )
    return MemoryReport(
        stages=stages,
        allocator_overhead=allocator_overhead_of(run.config),
        has_experts=run.dimensions.experts is not None,
    )


class _Stage:
    """One pipeline rank of a run."""

    def __init__(self, run: RunLike, plan: Plan, rank: int) -> None:
        self._run = run
        self._rank = rank
        self._chunks = chunks_from(run.boundaries)
        lengths = [chunk.length for chunk in self._chunks]
        self._plan = first_microbatches(plan, microbatches_until_peak(plan, rank, lengths))

    def memory(
        self, build_parts: Callable[[], Sequence[torch.nn.Module]], forward_step: _ForwardStep
    ) -> StageMemory:
        """Build the stage's model parts and run its actions, counting."""
        parallel, layout = self._run.config.parallel, self._run.layout
        with (
            fake_rank(
                stage=self._rank,
                world_size=layout.world_size,
                tensor_parallel_size=parallel.tensor_model_parallel_size,
                stages=parallel.pipeline_model_parallel_size,
                virtual_stages=layout.num_virtual_stages,
                expert_parallel_size=self._run.config.experts.expert_model_parallel_size,
            ),
            balanced_experts(self._run.dimensions.experts),
            mock.patch("megatron.seq1f1b.model.gpt.initialize_weights"),
            mock.patch("torch.nn.functional.rms_norm", rms_norm),
            mock.patch("torch.nn.functional.dropout", dropout),
        ):
            parts = build_parts()
            live = self._run_plan(parts, forward_step)
            return self._memory(parts, live)

    def _run_plan(self, parts: Sequence[torch.nn.Module], forward_step: _ForwardStep) -> LiveBytes:
        vocab_shard = (
            self._run.dimensions.padded_vocab_size // self._run.config.parallel.tensor_model_parallel_size
        )
        live = LiveBytes(lambda tensor: tensor.dim() > 1 and tensor.shape[-1] == vocab_shard)
        for part in parts:
            _prepare(part, live)
        states = KVCachePool()
        states.pool = _CountedPool(states.pool, live)  # type: ignore[assignment]
        prefix_states = states(self._chunks)
        program = MegatronProgram(
            plan=self._plan,
            rank=self._rank,
            chunks=self._chunks,
            parts=parts,
            data_iterators=self._data_iterators(),
            forward_step_func=forward_step,
            prefix_states=prefix_states,
        )
        executor = Executor(
            plan=self._plan,
            rank=self._rank,
            chunks=self._chunks,
            program=_Labelled(program, live),
            channels=_SilentChannels(live),  # type: ignore[arg-type]
            buffers=MessageBuffers(self._message_maker(parts[0], live)),
        )
        with live, program.running():
            executor.run()
            # What a pool and the tensor-parallel buffer hold, they hold in every later step.
            for pooled in POOLED:
                live.at_peak[pooled] = live.live[pooled]
            for buffer in parallel_state.get_global_memory_buffer().buffer.values():
                live.at_peak[Category.ACTIVATIONS] -= buffer.untyped_storage().nbytes()
                live.at_peak[Category.COMMUNICATION] += buffer.untyped_storage().nbytes()
        return live

    def _data_iterators(self) -> list[Iterator[Batch] | None]:
        """The same batch over and over, for the model parts that read one."""
        plan, training = self._plan, self._run.config.training
        batch = zeros_like_tokens(training.micro_batch_size, training.seq_length)
        reading = (plan.first_virtual_stage, plan.last_virtual_stage)
        return [
            itertools.repeat(batch) if self._rank + part * plan.num_stages in reading else None
            for part in range(plan.num_virtual_stages)
        ]

    def _message_maker(self, part: torch.nn.Module, live: LiveBytes) -> Callable[[Chunk], torch.Tensor]:
        """As the runtime's, counted with its pool."""
        config = self._run.config
        shards = config.parallel.tensor_model_parallel_size if config.parallel.sequence_parallel else 1
        dtype = next(part.parameters()).dtype

        def new_message(chunk: Chunk) -> torch.Tensor:
            shape = (chunk.length // shards, config.training.micro_batch_size, config.model.hidden_size)
            with live.making(Category.RECEIVED):
                return torch.empty(shape, dtype=dtype)

        return new_message

    def _memory(self, parts: Sequence[torch.nn.Module], live: LiveBytes) -> StageMemory:
        """The report, with what follows from the parameters by arithmetic."""
        config, update = self._run.config, update_memory_of(self._run.config)
        parallel, is_mixed = config.parallel, is_mixed_precision(config)
        parameters = [parameter for part in parts for parameter in part.parameters()]
        count = sum(parameter.numel() for parameter in parameters)
        of_experts = sum(each.numel() for each in parameters if not getattr(each, "allreduce", True))
        replicas = self._run.layout.data_parallel_size if parallel.use_distributed_optimizer else 1
        sharing = config.experts.expert_model_parallel_size
        # Ranks with the same experts share their optimizer's states.
        kept = (count - of_experts) / replicas + of_experts / max(1, replicas // sharing)
        return StageMemory(
            stage=self._rank,
            parameters_bytes=sum(parameter.numel() * parameter.element_size() for parameter in parameters),
            gradients_bytes=count * update.gradient_bytes,
            optimizer_bytes=int(kept * update.optimizer_bytes(is_mixed=is_mixed)),
            activations_bytes=live.at_peak[Category.ACTIVATIONS],
            kv_cache_bytes=live.at_peak[Category.KV_CACHE],
            dkv_bytes=live.at_peak[Category.DKV],
            logits_bytes=live.at_peak[Category.LOGITS],
            communication_bytes=live.at_peak[Category.COMMUNICATION] + live.at_peak[Category.RECEIVED],
            peak_action=live.peak_label,
            by_action={
                action: size + sum(live.live[pooled] for pooled in POOLED)
                for action, size in live.by_label.items()
                if action
            },
        )


def _prepare(part: torch.nn.Module, live: LiveBytes) -> None:
    """Leave the part's own storages uncounted, add gradients up as DDP does, attend by shapes."""
    for tensor in itertools.chain(part.parameters(), part.buffers()):
        live.ignore(tensor)
    for parameter in part.parameters():
        sum_of_gradients = torch.empty_like(parameter, dtype=torch.float32)
        live.ignore(sum_of_gradients)
        vars(parameter)["main_grad"] = sum_of_gradients
        parameter.register_post_accumulate_grad_hook(_drop_gradient)
    for module in part.modules():
        if hasattr(module, "softmax_scale") and hasattr(module, "_backend"):
            vars(module)["_backend"] = FlashShapes()


def _drop_gradient(parameter: torch.Tensor) -> None:
    """DDP adds a gradient to the buffer that all gradients share, and forgets it."""
    parameter.grad = None


class _Labelled:
    """A stage's program that says which action it computes."""

    def __init__(self, program: StageProgram, live: LiveBytes) -> None:
        self._program = program
        self._live = live

    def forward(self, unit: Unit, stage_input: torch.Tensor | None) -> torch.Tensor:
        """F."""
        self._live.begin(str(Action(ActionKind.F, *unit)))
        return self._program.forward(unit, stage_input)

    def backward(self, unit: Unit, forwarded: Forwarded) -> torch.Tensor | None:
        """B."""
        self._live.begin(str(Action(ActionKind.B, *unit)))
        return self._program.backward(unit, forwarded)

    def backward_input(self, unit: Unit, forwarded: Forwarded) -> torch.Tensor | None:
        """I."""
        self._live.begin(str(Action(ActionKind.I, *unit)))
        return self._program.backward_input(unit, forwarded)

    def backward_weight(self, unit: Unit) -> None:
        """W."""
        self._live.begin(str(Action(ActionKind.W, *unit)))
        self._program.backward_weight(unit)

    def finish(self, unit: Unit) -> None:
        """Nothing to label."""
        self._program.finish(unit)


class _CountedPool:
    """A pool of KV caches whose buffers are counted apart."""

    def __init__(self, pool: object, live: LiveBytes) -> None:
        self._pool = pool
        self._live = live

    def take(self, *args: object, purpose: str, **keywords: object) -> torch.Tensor:
        """A buffer of the pool."""
        category = Category.DKV if "gradients" in purpose else Category.KV_CACHE
        with self._live.making(category):
            buffer: torch.Tensor = self._pool.take(*args, purpose=purpose, **keywords)  # type: ignore[attr-defined]
        return buffer

    def __getattr__(self, name: str) -> object:
        return getattr(self._pool, name)


class _SilentChannels:
    """Neighbours that answer at once; the last message of each channel is still on its way."""

    def __init__(self, live: LiveBytes) -> None:
        self._live = live
        self._on_the_way: dict[Channel, torch.Tensor] = {}

    def post_receive(self, channel: Channel, buffer: torch.Tensor, *, what: str) -> _Arrived:
        """The buffer as it is."""
        return _Arrived(buffer)

    def send(self, channel: Channel, tensor: torch.Tensor, *, what: str) -> None:
        """Keep the message until the channel's next one."""
        self._live.move(tensor, Category.COMMUNICATION)
        self._on_the_way[channel] = tensor.detach().contiguous()

    def drain(self) -> None:
        """All messages have left."""
        self._on_the_way.clear()


class _Arrived:
    """A posted receive whose message is there."""

    def __init__(self, buffer: torch.Tensor) -> None:
        self._buffer = buffer

    def wait(self) -> torch.Tensor:
        """The buffer."""
        return self._buffer
