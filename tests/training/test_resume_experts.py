"""A mixture of experts stopped and resumed, also on other processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron.seq1f1b.config import parse_arguments
from megatron.seq1f1b.errors import CheckpointError
from megatron.seq1f1b.training.checkpoint.start import find_start
from megatron.seq1f1b.training.prepare import prepare
from tests.harness import run_distributed
from tests.parity.layouts import COMMON, GPT2_LIKE
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
    [(SHARED, "--use-distributed-optimizer"), ("--use-distributed-optimizer", SHARED)],
    ids=["shared to whole", "whole to shared"],
)
def test_weights_of_experts_move_where_their_optimizer_cannot(
    writer: str, reader: str, tmp_path: Path
) -> None:
    """The optimizer's state is refused by name; the weights alone give the same loss."""
    straight, resumed, save = (str(tmp_path / name) for name in ("straight", "resumed", "save"))
    run_distributed(
        train_each,
        2,
        (
            (f"{BASE} {writer} --train-iters 3", straight),
            (f"{BASE} {writer} --train-iters 2 --save {save}", resumed),
        ),
    )
    again = f"{BASE} {reader} --pipe-sp-splits 2 --train-iters 3 --load {save}"
    run = prepare(parse_arguments(f"{COMMON} {GPT2_LIKE} {again}".split()), world_size=2)
    with pytest.raises(CheckpointError, match=r"--expert-model-parallel-size above 1 .* or --no-load-optim"):
        find_start(run)
    run_distributed(train_each, 2, ((f"{again} --no-load-optim", resumed),))
    assert losses_of(resumed) == pytest.approx(losses_of(straight), rel=1e-5)
