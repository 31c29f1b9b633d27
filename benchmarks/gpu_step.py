"""A training step of a small GPT in this process alone, timed, with its peak memory."""

from __future__ import annotations

import statistics

import torch
from megatron.core import parallel_state

from benchmarks.device_clock import Clock
from megatron.seq1f1b.config import parse_arguments
from megatron.seq1f1b.model.flops import training_flops_per_sequence
from megatron.seq1f1b.training.build import build
from megatron.seq1f1b.training.datasets import read_data
from megatron.seq1f1b.training.distributed import join
from megatron.seq1f1b.training.prepare import prepare
from megatron.seq1f1b.training.steps import data_iterators, make_forward_backward, train_step

COMMON = (
    "--micro-batch-size 1 --global-batch-size 2 --train-iters 100 --lr 1e-4 --mock-data --num-workers 0 "
    "--tokenizer-type NullTokenizer --vocab-size 50256 --position-embedding-type rope "
    "--untie-embeddings-and-output-weights"
)


def measure_step(flags: str, *, steps: int) -> dict[str, object]:
    """Median seconds of a step after two warm-up ones, tokens and TFLOP per second, loss and peak bytes."""
    run = prepare(parse_arguments(f"{COMMON} {flags}".split()), world_size=1)
    join(run.config, run.layout)
    try:
        trained, train = build(run), read_data(run).train
        forward_backward, iterators = make_forward_backward(run), data_iterators(run, train)
        is_cuda = torch.cuda.is_available()
        clock, losses = Clock("cuda" if is_cuda else "cpu"), []

        def one_step() -> None:
            result = train_step(run, trained, forward_backward, iterators)
            losses.append(result.loss_sum / max(result.num_loss_tokens, 1.0))

        clock.seconds(one_step), clock.seconds(one_step)
        if is_cuda:
            torch.cuda.reset_peak_memory_stats()
        seconds = statistics.median(clock.seconds(one_step) for _ in range(steps))
    finally:
        parallel_state.destroy_model_parallel()
    length, batch = run.config.training.seq_length, run.layout.global_batch_size
    return {
        "seconds": round(seconds, 4),
        "tokens_per_second": round(length * batch / seconds),
        "tflops": round(batch * training_flops_per_sequence(run.dimensions, length) / seconds / 1e12, 2),
        "first_loss": losses[0],
        "peak_bytes": torch.cuda.max_memory_allocated() if is_cuda else None,
    }
