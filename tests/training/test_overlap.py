"""Reduction of gradients beside the backward: the same training as with reduction after it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness import run_distributed
from tests.training.runs import rows_of, train

GROWING = "--global-batch-size 8 --rampup-batch-size 4 4 4 --train-samples 12"
"""A step of half the microbatches, and a whole one."""
FLAGS = f"--pipeline-model-parallel-size 2 --pipe-sp-splits 2 {GROWING} --lr 1e-2"
SCHEDULES = {
    "seq1f1b": "--pipeline-schedule seq1f1b",
    "interleaved": "--num-virtual-stages-per-pipeline-rank 2",
    "zero bubble": "--pipeline-schedule seq1f1b-zb",
}


def train_watched(runs: tuple[tuple[str, str], ...]) -> list[bool]:
    """Runs of (flags, run directory) in turn; whether each started every reduction of its last step early."""
    from megatron.core.distributed.param_and_grad_buffer import _ParamAndGradBucketGroup as Group

    finish = Group.finish_grad_sync
    are_early: list[bool] = []

    def watch(self: Group, **options: object) -> None:
        are_early.append(self.grad_reduce_handle is not None)
        finish(self, **options)

    Group.finish_grad_sync = watch
    found = []
    for flags, run_dir in runs:
        are_early.clear()
        train(flags, run_dir)
        found.append(all(are_early[len(are_early) // 2 :]))
    return found


def test_steps_after_the_first_overlap_and_train_alike(tmp_path: Path) -> None:
    """Megatron-Core's first step only counts gradients: what starts too early shows in a second of more."""
    runs = tuple(
        (f"{FLAGS} {schedule} {extra}", str(tmp_path / f"{name}{extra}"))
        for name, schedule in SCHEDULES.items()
        for extra in ("", "--overlap-grad-reduce")
    )
    for are_early in run_distributed(train_watched, 4, runs):
        assert are_early == ["--overlap-grad-reduce" in flags for flags, _ in runs]
    for name in SCHEDULES:
        after, beside = (rows_of(tmp_path / f"{name}{extra}") for extra in ("", "--overlap-grad-reduce"))
        assert len(after) == 2
        for metric in ("lm_loss", "grad_norm"):
            expected = [row[metric] for row in after]
            assert [row[metric] for row in beside] == pytest.approx(expected, rel=1e-6), f"{name}: {metric}"
