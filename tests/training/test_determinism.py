"""Two runs of the same flags: the same bits, with `--deterministic-mode` and on a CPU without it."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron.seq1f1b.config import parse_arguments
from megatron.seq1f1b.training.prepare import prepare
from tests.harness import run_distributed
from tests.parity.layouts import COMMON, GPT2_LIKE
from tests.training.runs import rows_of, train_each

FLAGS = (
    "--global-batch-size 4 --hidden-dropout 0.1 --log-params-norm --pipeline-model-parallel-size 2 "
    "--pipe-sp-splits 2 --eval-interval 2 --eval-iters 1"
)
BITS = ("lm_loss", "grad_norm", "param_norm", "validation_loss")


@pytest.mark.parametrize("extra", [pytest.param("", marks=pytest.mark.slow), "--deterministic-mode"])
def test_two_runs_have_the_same_bits(extra: str, tmp_path: Path) -> None:
    folders = [str(tmp_path / name) for name in ("one", "other")]
    run_distributed(train_each, 2, tuple((f"{FLAGS} {extra}", folder) for folder in folders))
    one, other = ([[row[name] for name in BITS] for row in rows_of(folder)] for folder in folders)
    assert len(one) == 4
    assert one == other


def test_measuring_the_stages_leaves_no_trace(tmp_path: Path) -> None:
    """Of dropout's random numbers or experts' biases: the second start reads what the first measured."""
    experts = "--num-experts 4 --moe-router-topk 2 --disable-bias-linear --moe-router-enable-expert-bias"
    flags = f"{FLAGS} {experts} --moe-router-score-function sigmoid --pipe-sp-strategy profiled"
    flags = f"{flags} --pipeline-model-parallel-size 1 --num-layers 1"
    rows = []
    for _ in range(2):
        run_distributed(started, 1, f"{flags} --run-dir {tmp_path}")
        rows.append([[row[name] for name in BITS] for row in rows_of(tmp_path)])
    assert len(rows[0]) == 4
    assert rows[0] == rows[1]


def started(flags: str) -> None:
    """A run as the command starts it."""
    from megatron.seq1f1b.training.pretrain import pretrain

    pretrain(prepare(parse_arguments(f"{COMMON} {GPT2_LIKE} {flags}".split()), world_size=1))


def test_what_cannot_be_deterministic_raises() -> None:
    """The mode reaches torch, and leaves it with the next run that does without."""
    assert run_distributed(modes, 1) == [(True, False)]


def modes() -> tuple[bool, bool]:
    import torch

    from megatron.seq1f1b.training.determinism import set_determinism

    found = []
    for is_deterministic in (True, False):
        set_determinism(is_deterministic)
        found.append(torch.are_deterministic_algorithms_enabled())
    return found[0], found[1]
