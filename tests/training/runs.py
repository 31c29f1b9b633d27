"""Runs a small GPT through the real loop, in processes that the harness started."""

from __future__ import annotations

import json
from pathlib import Path

import torch.distributed as dist
from megatron.core import parallel_state

from megatron.seq1f1b.config import parse_arguments
from megatron.seq1f1b.training.build import build
from megatron.seq1f1b.training.checkpoint.load import load_start
from megatron.seq1f1b.training.checkpoint.start import find_start
from megatron.seq1f1b.training.datasets import read_data
from megatron.seq1f1b.training.distributed import join
from megatron.seq1f1b.training.loop import Loop
from megatron.seq1f1b.training.parity_check import check_parity
from megatron.seq1f1b.training.prepare import prepare
from tests.parity.layouts import COMMON, GPT2_LIKE

Row = dict[str, object]


def train_each(runs: tuple[tuple[str, str], ...]) -> None:
    """Runs of (flags, run directory) in turn."""
    for flags, run_dir in runs:
        train(flags, run_dir)


def train(flags: str, run_dir: str) -> None:
    """One run; leaves the process group alone, so that another can follow."""
    common = COMMON.replace("--train-iters 4", "") if "--train-samples" in flags else COMMON
    run = prepare(parse_arguments(f"{common} {GPT2_LIKE} {flags}".split()), world_size=dist.get_world_size())
    start = find_start(run)
    join(run.config, run.layout)
    try:
        trained = build(run)
        iteration = load_start(run, trained, start)
        datasets = read_data(run)
        check_parity(run, trained, datasets.train, iteration=iteration)
        Loop(run, trained, datasets, run_dir=Path(run_dir), iteration=iteration).train()
    finally:
        parallel_state.destroy_model_parallel()


def rows_of(run_dir: Path | str) -> list[Row]:
    """The rows of metrics.jsonl."""
    return [json.loads(line) for line in (Path(run_dir) / "metrics.jsonl").read_text().splitlines()]


def losses_of(run_dir: Path | str) -> list[float]:
    """The loss of every step, exactly."""
    return [float(str(row["lm_loss"])) for row in rows_of(run_dir)]
