"""A mixture of experts stopped and resumed, also on other processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness import run_distributed
from tests.training.runs import losses_of, train_each

BASE = (
    "--global-batch-size 4 --lr-decay-iters 4 --lr 1e-2 --disable-bias-linear "
    "--num-experts 4 --moe-aux-loss-coeff 0.1"
)
SHARED = "--expert-model-parallel-size 2 --use-distributed-optimizer"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("writer", "reader"),
    [
        ("--pipe-sp-splits 2", "--pipeline-model-parallel-size 2 --pipe-sp-splits 3"),
        (f"{SHARED} --pipe-sp-splits 2", f"{SHARED} --pipe-sp-splits 4"),
    ],
    ids=["data to pipeline", "shared experts"],
)
def test_resume_goes_on_alike(writer: str, reader: str, tmp_path: Path) -> None:
    straight, resumed, save = (str(tmp_path / name) for name in ("straight", "resumed", "save"))
    runs = (
        (f"{BASE} {writer} --train-iters 4", straight),
        (f"{BASE} {writer} --train-iters 2 --save {save}", resumed),
        (f"{BASE} {reader} --train-iters 4 --load {save}", resumed),
    )
    run_distributed(train_each, 2, runs)
    assert losses_of(resumed) == pytest.approx(losses_of(straight), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("writer", "reader"),
    [(SHARED, "--use-distributed-optimizer"), ("", SHARED)],
    ids=["shared to whole", "whole to shared"],
)
def test_experts_and_their_optimizer_move_to_other_processes(
    writer: str, reader: str, tmp_path: Path
) -> None:
    straight, resumed, save = (str(tmp_path / name) for name in ("straight", "resumed", "save"))
    runs = (
        (f"{BASE} {writer} --train-iters 4", straight),
        (f"{BASE} {writer} --train-iters 2 --save {save}", resumed),
        (f"{BASE} {reader} --pipe-sp-splits 2 --train-iters 4 --load {save}", resumed),
    )
    run_distributed(train_each, 2, runs)
    assert losses_of(resumed) == pytest.approx(losses_of(straight), rel=1e-5)
