"""What the pipeline benchmarks share: one model under several schedules in one process group.

Every schedule trains the same parameters with the same attention core on the same batches; only
the function that orders the work differs.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from megatron.seq1f1b.upstream import prepare_megatron_core

prepare_megatron_core()

import torch
import torch.distributed as dist

from megatron.seq1f1b.config import parse_arguments
from megatron.seq1f1b.data import DataSettings, build_train_valid_test_datasets
from megatron.seq1f1b.data.samples import SampleDataset
from megatron.seq1f1b.training.build import Trained, build
from megatron.seq1f1b.training.distributed import join
from megatron.seq1f1b.training.prepare import Run, prepare
from megatron.seq1f1b.training.steps import data_iterators, gradients, make_forward_backward
from megatron.seq1f1b.upstream.parallel import use_virtual_stages


def parser(description: str) -> argparse.ArgumentParser:
    """Options that every pipeline benchmark has."""
    options = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    options.add_argument("--microbatches", type=int, default=4, help="m, per step")
    options.add_argument("--chunks", type=int, default=4, help="k, per sequence")
    options.add_argument("--seq-length", type=int, default=4096, help="S, tokens")
    options.add_argument("--layers", type=int, default=8, help="transformer layers")
    options.add_argument("--hidden", type=int, default=256, help="hidden size")
    options.add_argument("--heads", type=int, default=4, help="attention heads")
    options.add_argument("--vocab", type=int, default=511, help="ids")
    return options


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A schedule, ready to run steps on the shared model."""

    name: str
    run: Run
    trained: Trained
    forward_backward: Callable[..., object]
    data: SampleDataset

    def step(self, *, batch_size: int | None = None) -> None:
        """Forward and backward of one step, of the whole batch unless a size is given; no optimizer."""
        use_virtual_stages(self.run.layout.num_virtual_stages)
        iterators = data_iterators(self.run, self.data, batch_size=batch_size)
        gradients(self.run, self.trained, self.forward_backward, iterators, batch_size=batch_size)

    def seconds(self) -> float:
        """Of one step on the slowest process."""
        dist.barrier()
        started_at = time.perf_counter()
        self.step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        slowest = torch.tensor(time.perf_counter() - started_at, dtype=torch.float64)
        dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
        return slowest.item()


def resolve(options: argparse.Namespace, *, schedule: str, chunks: int, extra: str = "") -> Run:
    """The run of one schedule over all processes as pipeline stages."""
    stages = dist.get_world_size()
    flags = (
        f"--num-layers {options.layers} --hidden-size {options.hidden} "
        f"--num-attention-heads {options.heads} --seq-length {options.seq_length} "
        f"--vocab-size {options.vocab} --position-embedding-type rope --micro-batch-size 1 "
        f"--global-batch-size {options.microbatches} --train-iters 1 --lr 1e-4 --mock-data "
        f"--tokenizer-type NullTokenizer --untie-embeddings-and-output-weights --num-workers 0 "
        f"--pipeline-model-parallel-size {stages} --pipeline-schedule {schedule} "
        f"--pipe-sp-splits {chunks} {extra}"
    )
    return prepare(parse_arguments(flags.split()), world_size=stages)


def start() -> None:
    """Join the processes that torchrun started; one torch thread each on CPU."""
    torch.set_num_threads(1)
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def contestants(runs: dict[str, Run]) -> list[Contestant]:
    """All runs, on one model per number of virtual stages; the first must have none."""
    first = next(iter(runs.values()))
    join(first.config, first.layout)
    models: dict[int, Trained] = {}
    entrants = []
    for name, run in runs.items():
        virtual = run.layout.num_virtual_stages
        use_virtual_stages(virtual)
        if virtual not in models:
            models[virtual] = build(run)
        function = make_forward_backward(run)
        entrants.append(
            Contestant(
                name=name,
                run=run,
                trained=models[virtual],
                forward_backward=function,
                data=training_data(run),
            )
        )
    return entrants


def warm_up(entrants: list[Contestant]) -> None:
    """What happens once, connections and buffers, with one microbatch each.

    Megatron-Core's interleaved schedule takes no single one and has no connections of its own.
    """
    for entrant in entrants:
        if entrant.run.layout.schedule != "interleaved":
            entrant.step(batch_size=1)


def alternate(entrants: list[Contestant], *, rounds: int) -> dict[str, list[float]]:
    """Seconds of every step of every entrant, taken in turn, first in one order, then in the other."""
    seconds: dict[str, list[float]] = {entrant.name: [] for entrant in entrants}
    for number in range(rounds):
        for entrant in in_turn(entrants, number):
            seconds[entrant.name].append(entrant.seconds())
    return seconds


def in_turn(entrants: list[Contestant], number: int) -> list[Contestant]:
    """The entrants in the order of one round: every second one backwards."""
    return entrants if number % 2 == 0 else entrants[::-1]


def ratios(over: list[float], under: list[float]) -> list[float]:
    """Of paired measurements."""
    return [a / b for a, b in zip(over, under, strict=True)]


def training_data(run: Run) -> SampleDataset:
    """Mock samples for one step."""
    settings = DataSettings(
        tokenizer=run.tokenizer, seq_length=run.config.training.seq_length, mock_data=True
    )
    dataset = build_train_valid_test_datasets(settings, train_samples=run.layout.global_batch_size).train
    assert dataset is not None
    return dataset
