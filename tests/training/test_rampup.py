"""A batch that grows: every schedule sees the same steps, and a run resumes in the middle of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness import run_distributed
from tests.training.runs import losses_of, rows_of, train_each

GROWING = "--train-samples 26 --global-batch-size 6 --rampup-batch-size 2 2 6 --lr 1e-2 --lr-warmup-samples 8"
EVALUATED = "--eval-interval 2 --eval-iters 1"
PP2 = "--pipeline-model-parallel-size 2"
EXACT = (
    "iteration",
    "batch_size",
    "lm_loss",
    "grad_norm",
    "learning_rate",
    "consumed_samples",
    "validation_loss",
)
LAYOUTS = {
    1: ("--pipeline-schedule 1f1b",),
    2: (
        f"{PP2} --pipe-sp-splits 2",
        f"{PP2} --pipe-sp-splits 2 --num-virtual-stages-per-pipeline-rank 2",
        "--pipe-sp-splits 4",
    ),
}


def test_every_schedule_grows_alike(tmp_path: Path) -> None:
    runs = {
        size: tuple(
            (f"{GROWING} {flags}", str(tmp_path / f"{size}-{number}")) for number, flags in enumerate(each)
        )
        for size, each in LAYOUTS.items()
    }
    for size, each in runs.items():
        run_distributed(train_each, size, each)
    rows = rows_of(tmp_path / "1-0")
    # 2 2 (4 of 6 samples: the next size) 4 (8 > 6) 6 6 6
    assert [row["batch_size"] for row in rows] == [2, 2, 4, 6, 6, 6]
    assert [row["consumed_samples"] for row in rows] == [2, 4, 8, 14, 20, 26]
    assert [row["learning_rate"] for row in rows][:4] == pytest.approx([0.0, 2.5e-3, 5e-3, 1e-2])
    expected = losses_of(tmp_path / "1-0")
    for flags, run_dir in runs[2]:
        assert losses_of(run_dir) == pytest.approx(expected, rel=1e-5), flags


@pytest.mark.parametrize("stopped_after", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_a_run_resumes_while_its_batch_grows(stopped_after: int, tmp_path: Path) -> None:
    flags = f"{GROWING} {EVALUATED} {PP2} --pipe-sp-splits 4"
    straight, resumed, save = (str(tmp_path / name) for name in ("straight", "resumed", "save"))
    runs = (
        (flags, straight),
        (f"{flags} --save {save} --exit-interval {stopped_after}", resumed),
        (f"{flags} --load {save}", resumed),
    )
    run_distributed(train_each, 2, runs)
    expected, found = (
        [{name: row[name] for name in EXACT} for row in rows_of(run)] for run in (straight, resumed)
    )
    assert len(found) == 6
    assert found == expected
