"""Twenty steps with updates: losses of every schedule from one seed."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from megatron.core import parallel_state

from megatron.seq1f1b.config import parse_arguments
from megatron.seq1f1b.training.build import build
from megatron.seq1f1b.training.distributed import join
from megatron.seq1f1b.training.metrics import gather
from megatron.seq1f1b.training.prepare import prepare
from megatron.seq1f1b.training.steps import data_iterators, make_forward_backward, train_step
from tests.harness import run_distributed
from tests.parity.layouts import COMMON, GPT2_LIKE, LLAMA_LIKE, training_data

STEPS = 20
DISTRIBUTED = "--use-distributed-optimizer --overlap-grad-reduce"
TENSOR_PARALLEL = "--tensor-model-parallel-size 2 --sequence-parallel"
PP2 = "--pipeline-model-parallel-size 2"
LAYOUTS = {
    "seq1f1b": (4, "--pipeline-model-parallel-size 4 --pipe-sp-splits 4"),
    "data parallel": (4, f"{PP2} --pipe-sp-splits 4"),
    "distributed optimizer": (4, f"{PP2} --pipe-sp-splits 4 {DISTRIBUTED}"),
    "tensor and sequence parallel": (4, f"{PP2} --pipe-sp-splits 2 {TENSOR_PARALLEL}"),
}


def losses_of(flags: str) -> list[float]:
    """The loss of each of twenty steps."""
    run = prepare(
        parse_arguments(f"{COMMON} {flags} --global-batch-size 4 --init-method-std 0.02 --lr 1e-2".split()),
        world_size=dist.get_world_size(),
    )
    join(run.config, run.layout)
    trained = build(run)
    forward_backward = make_forward_backward(run)
    iterators = data_iterators(run, training_data(run, num_samples=4 * STEPS))
    losses = []
    for step in range(STEPS):
        result = train_step(run, trained, forward_backward, iterators)
        metrics = gather(run, result, iteration=step, step_seconds=1.0, learning_rate=0.0, loss_scale=1.0)
        losses.append(metrics.lm_loss)
    parallel_state.destroy_model_parallel()
    return losses


@pytest.mark.parametrize("shape", [GPT2_LIKE, LLAMA_LIKE], ids=["gpt2", "llama"])
def test_losses_of_twenty_steps_are_those_of_1f1b(shape: str) -> None:
    pipeline = f"{shape} --pipeline-model-parallel-size 4 --pipeline-schedule 1f1b"
    expected = torch.tensor(run_distributed(losses_of, 4, pipeline)[0])
    assert expected[-1] < expected[0], "the model learns"
    for name, (world_size, flags) in LAYOUTS.items():
        losses = torch.tensor(run_distributed(losses_of, world_size, f"{shape} {flags}")[0])
        difference = ((losses - expected).abs() / expected).max().item()
        assert difference <= 1e-5, f"{name}: losses differ by {difference:.1e}"
