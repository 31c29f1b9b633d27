"""Runs a small GPT under any layout and returns its losses and every gradient of the whole model.

Gradients come back under their names in the whole model and put together over tensor-parallel
ranks, so that any layout can be compared with one process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from megatron.seq1f1b.config import parse_arguments
from megatron.seq1f1b.data import build_train_valid_test_datasets
from megatron.seq1f1b.data.samples import SampleDataset
from megatron.seq1f1b.model.initialization import global_parameters
from megatron.seq1f1b.training.build import Trained, build
from megatron.seq1f1b.training.distributed import join
from megatron.seq1f1b.training.evaluation import evaluate
from megatron.seq1f1b.training.prepare import Run, prepare
from megatron.seq1f1b.training.samples import data_settings
from megatron.seq1f1b.training.steps import (
    LOSS,
    data_iterators,
    gradients,
    make_forward_backward,
)
from megatron.seq1f1b.upstream.step import get_attr_wrapped_model

GPT2_LIKE = (
    "--num-layers 4 --hidden-size 32 --num-attention-heads 4 --seq-length 32 "
    "--position-embedding-type learned_absolute --vocab-size 127 "
)
LLAMA_LIKE = (
    "--num-layers 4 --hidden-size 32 --num-attention-heads 4 --seq-length 32 --vocab-size 127 "
    "--position-embedding-type rope --swiglu --normalization RMSNorm --disable-bias-linear "
    "--untie-embeddings-and-output-weights --group-query-attention --num-query-groups 2 "
)
COMMON = (
    "--micro-batch-size 1 --train-iters 4 --lr 1e-3 --mock-data --tokenizer-type NullTokenizer "
    "--seed 7 --num-workers 0 --init-method-std 0.2 "
)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Loss of one step and the gradient of every parameter, by name in the whole model."""

    loss: float
    grads: dict[str, torch.Tensor]
    validation_loss: float | None = None
    """Of the samples after the step's, where `--eval-iters` asks for it."""


def run_steps(layouts: tuple[str, ...], dtype: torch.dtype) -> list[Outcome]:
    """One step without update under each layout in turn; the outcomes on rank 0, none elsewhere."""
    outcomes = [run_step(flags, dtype) for flags in layouts]
    return [outcome for outcome in outcomes if outcome is not None]


def run_step(flags: str, dtype: torch.dtype) -> Outcome | None:
    """One step without update; the outcome on rank 0, None elsewhere."""
    run = prepare(parse_arguments((COMMON + flags).split()), world_size=dist.get_world_size())
    join(run.config, run.layout)
    try:
        trained = build(run, params_dtype=dtype)
        iterators = data_iterators(run, training_data(run, num_samples=64))
        forward_backward = make_forward_backward(run)
        losses = gradients(run, trained, forward_backward, iterators)
        if run.config.parallel.use_distributed_optimizer:
            _gather_reduced_shards(trained)
        grads = whole_tensors(run, trained, lambda parameter: parameter.main_grad)
        total = _pipeline_sum(sum((loss[LOSS] for loss in losses), torch.zeros(2)).double())
        validation_loss = None
        if run.config.training.eval_iters > 0:
            validation_loss = evaluate(run, trained, forward_backward, iterators)
    finally:
        parallel_state.destroy_model_parallel()
    everyone = assembled(grads)
    if dist.get_rank() != 0:
        return None
    return Outcome(loss=float(total[0] / total[1]), grads=everyone, validation_loss=validation_loss)


def training_data(run: Run, *, num_samples: int) -> SampleDataset:
    """Mock samples of the run's own length, seed and document rules."""
    settings = data_settings(run.config, run.tokenizer)
    dataset = build_train_valid_test_datasets(settings, train_samples=num_samples).train
    assert dataset is not None
    return dataset


def whole_tensors(
    run: Run, trained: Trained, of: Callable[[torch.nn.Parameter], torch.Tensor]
) -> dict[str, tuple[int, int, bool, torch.Tensor]]:
    """By name: (axis, tensor-parallel rank, whether gate and values are stacked, a parameter's tensor)."""
    replica = parallel_state.get_data_parallel_rank()
    replica_of_experts = parallel_state.get_expert_data_parallel_rank()
    found = {}
    for part in trained.parts:
        model = get_attr_wrapped_model(part, "decoder", return_model_obj=True)
        for name, parameter in global_parameters(model):
            if (replica if getattr(parameter, "allreduce", True) else replica_of_experts) != 0:
                continue
            axis = int(parameter.partition_dim) if getattr(parameter, "tensor_model_parallel", False) else -1
            gated = run.layout.activation.is_gated and "linear_fc1" in name
            rank = parallel_state.get_tensor_model_parallel_rank()
            found[name] = (axis, rank, gated, of(parameter).detach().clone())
    return found


def _gather_reduced_shards(trained: Trained) -> None:
    """Every replica's own part of the reduced gradients, to all of them."""
    for part in trained.parts:
        for buffer in [*part.buffers, *part.expert_parallel_buffers]:
            for bucket in buffer.buckets:
                replicas = buffer.data_parallel_group
                own = bucket.grad_data.view(replicas.size(), -1)[replicas.rank()].clone()
                dist.all_gather_into_tensor(bucket.grad_data, own, group=replicas)


def assembled(own: dict[str, tuple[int, int, bool, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The tensors of the whole model from what `whole_tensors` found on each process; collective."""
    everyone: list[dict] = [{}] * dist.get_world_size()
    dist.all_gather_object(everyone, own)
    shards: dict[str, dict[int, tuple]] = {}
    for found in everyone:
        for name, (axis, rank, gated, grad) in found.items():
            shards.setdefault(name, {})[rank] = (axis, gated, grad)
    return {name: _join([ranks[rank] for rank in sorted(ranks)]) for name, ranks in shards.items()}


def _join(shards: list[tuple[int, bool, torch.Tensor]]) -> torch.Tensor:
    axis, gated, first = shards[0]
    if axis < 0 or len(shards) == 1:
        for _, _, grad in shards:
            torch.testing.assert_close(grad, first)
        return first
    if gated:
        halves = [grad.chunk(2, axis) for _, _, grad in shards]
        return torch.cat([half[0] for half in halves] + [half[1] for half in halves], axis)
    return torch.cat([grad for _, _, grad in shards], axis)


def _pipeline_sum(value: torch.Tensor) -> torch.Tensor:
    """Over all ranks, each tensor-parallel group counted once."""
    if parallel_state.get_tensor_model_parallel_rank() != 0:
        value = torch.zeros_like(value)
    dist.all_reduce(value)
    return value


def largest_difference(left: Outcome, right: Outcome, *, floor: float = 0.0) -> tuple[float, str]:
    """Largest relative difference of a loss or of a gradient (by its norm), and whose it is.

    A gradient below `floor` times the largest one counts as that much: those that are zero but for
    rounding, as of a bias that all keys share, have no relative difference worth the name.
    """
    assert left.grads.keys() == right.grads.keys()
    least = max(1e-30, floor * max(grad.norm().item() for grad in right.grads.values()))
    worst = (abs(left.loss - right.loss) / abs(right.loss), "loss")
    if left.validation_loss is not None and right.validation_loss is not None:
        difference = abs(left.validation_loss - right.validation_loss) / abs(right.validation_loss)
        worst = max(worst, (difference, "validation loss"))
    for name, grad in right.grads.items():
        rows = min(len(grad), len(left.grads[name]))
        difference = (left.grads[name][:rows] - grad[:rows]).norm() / grad.norm().clamp(min=least)
        worst = max(worst, (difference.item(), name))
    return worst
