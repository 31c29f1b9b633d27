"""Trains a small GPT for a few steps under any layout and returns every weight of the whole model."""

from __future__ import annotations

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from megatron.seq1f1b.config import parse_arguments
from megatron.seq1f1b.training.build import build
from megatron.seq1f1b.training.distributed import join
from megatron.seq1f1b.training.prepare import prepare
from megatron.seq1f1b.training.steps import data_iterators, make_forward_backward, train_step
from tests.parity.layouts import COMMON, assembled, training_data, whole_tensors

Weights = dict[str, torch.Tensor]


def trained_weights(runs: tuple[str, ...], dtype: torch.dtype, num_steps: int) -> list[Weights]:
    """The weights, by name in the whole model, after so many steps of each run of flags in turn."""
    return [_weights_of(flags, dtype, num_steps) for flags in runs]


def _weights_of(flags: str, dtype: torch.dtype, num_steps: int) -> Weights:
    run = prepare(parse_arguments((COMMON + flags).split()), world_size=dist.get_world_size())
    join(run.config, run.layout)
    try:
        trained = build(run, params_dtype=dtype)
        forward_backward = make_forward_backward(run)
        iterators = data_iterators(run, training_data(run, num_samples=64))
        for _ in range(num_steps):
            train_step(run, trained, forward_backward, iterators)
        return assembled(whole_tensors(run, trained, lambda parameter: parameter.data))
    finally:
        parallel_state.destroy_model_parallel()


def largest_difference(left: Weights, right: Weights) -> tuple[float, str]:
    """Relative, by its norm, and whose it is."""
    assert left.keys() == right.keys()
    return max((_difference(left[name], right[name]), name) for name in right)


def _difference(left: torch.Tensor, right: torch.Tensor) -> float:
    return float((left - right).norm() / right.norm().clamp(min=1e-30))
