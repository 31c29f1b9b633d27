"""Stopped and resumed is as if never stopped: bit for bit under one layout, closely under others."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness import run_distributed
from tests.training.runs import losses_of, rows_of, train_each

BASE = "--global-batch-size 4 --lr-decay-iters 6 --lr 1e-2 --eval-interval 2 --eval-iters 1"
PP2 = "--pipeline-model-parallel-size 2"
DP2 = f"{PP2} --pipe-sp-splits 2"
SAME = {
    "plain": (2, f"{PP2} --pipe-sp-splits 4"),
    "dropout": (2, f"{PP2} --pipe-sp-splits 4 --hidden-dropout 0.1"),
    "bf16": (2, f"{PP2} --pipe-sp-splits 4 --bf16"),
    "fp16": (2, f"{PP2} --pipe-sp-splits 4 --fp16 --initial-loss-scale 1048576 --hysteresis 1"),
    "distributed": (4, f"{DP2} --use-distributed-optimizer --overlap-grad-reduce"),
    "overlapped": (
        4,
        f"{DP2} --use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather",
    ),
    "distributed fp16": (4, f"{DP2} --use-distributed-optimizer --fp16 --initial-loss-scale 1024"),
    "distributed bf16": (4, f"{DP2} --use-distributed-optimizer --bf16"),
    "sgd": (2, f"{PP2} --pipe-sp-splits 4 --bf16 --optimizer sgd --decoupled-lr 2e-2"),
    "sgd without momentum": (2, f"{PP2} --optimizer sgd --sgd-momentum 0"),
    "decoupled": (
        2,
        "--use-distributed-optimizer --decoupled-lr 2e-2 --decoupled-min-lr 1e-2 --no-decoupled-weight-decay",
    ),
    "interleaved": (2, f"{PP2} --num-virtual-stages-per-pipeline-rank 2 --pipe-sp-splits 2"),
}
WRITER = (DP2, f"{PP2} --tensor-model-parallel-size 2 --sequence-parallel --pipe-sp-splits 2")
READERS = {
    1: ("--pipe-sp-splits 1", "--pipe-sp-splits 4"),
    2: (
        f"{PP2} --pipeline-schedule 1f1b",
        f"{PP2} --num-virtual-stages-per-pipeline-rank 2 --pipe-sp-splits 4 --pipe-sp-strategy average",
        "--tensor-model-parallel-size 2 --pipe-sp-splits 2",
        "--pipe-sp-splits 2",
    ),
}


SLOW = ("sgd without momentum", "decoupled")


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow) if case in SLOW else case for case in SAME]
)
def test_resume_under_the_same_layout_is_exact(case: str, tmp_path: Path) -> None:
    world_size, flags = SAME[case]
    straight, resumed, save = (str(tmp_path / name) for name in ("straight", "resumed", "save"))
    runs = (
        (f"{BASE} {flags} --train-iters 6", straight),
        (f"{BASE} {flags} --train-iters 3 --save {save}", resumed),
        (f"{BASE} {flags} --train-iters 6 --load {save}", resumed),
    )
    run_distributed(train_each, world_size, runs)
    exact = ("iteration", "lm_loss", "grad_norm", "learning_rate", "consumed_samples", "validation_loss")
    expected, found = (
        [{name: row[name] for name in exact} for row in rows_of(run)] for run in (straight, resumed)
    )
    assert found == expected


@pytest.mark.parametrize("flags", ["", "--use-distributed-optimizer"], ids=["plain", "distributed"])
def test_resume_under_other_layouts_goes_on_alike(flags: str, tmp_path: Path) -> None:
    """Tensor, pipeline, virtual and data parallelism, schedule, chunks and boundaries all change."""
    straight, save = str(tmp_path / "straight"), str(tmp_path / "save")
    # A vocabulary of 180 rows or 240; keys and values whole or shared by two processes.
    flags += " --make-vocab-size-divisible-by 60 --group-query-attention --num-query-groups 1"
    writer = f"{BASE} {WRITER['--use' not in flags]} {flags}"
    begin = (f"{writer} --train-iters 3 --save {save}", str(tmp_path / "first"))
    run_distributed(train_each, 4, ((f"{writer} --train-iters 6", straight), begin))
    expected = losses_of(straight)[3:]
    for readers, layouts in READERS.items():
        runs = tuple(
            (f"{BASE} {flags} {layout} --train-iters 6 --load {save}", str(tmp_path / f"{readers}-{number}"))
            for number, layout in enumerate(layouts)
        )
        run_distributed(train_each, readers, runs)
        for layout, run_dir in runs:
            assert losses_of(run_dir) == pytest.approx(expected, rel=1e-5), layout


def test_a_run_that_is_over_has_nothing_left_to_do(tmp_path: Path) -> None:
    """Started again after its last step, or after its last validation, a run just ends."""
    run, save = str(tmp_path / "run"), str(tmp_path / "save")
    flags = f"{BASE} {PP2} --pipe-sp-splits 2 --save {save} --load {save} --train-iters"
    run_distributed(train_each, 2, ((f"{flags} 2", run), (f"{flags} 2", run), (f"{flags} 3", run)))
    assert [row["iteration"] for row in rows_of(run)] == [1, 2, 3]
