"""Checkpoints written beside training hold what training had when it was asked for them."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import torch

from megatron.seq1f1b.training.checkpoint.tensors import read_tensors
from tests.harness import DistributedError, run_distributed
from tests.training.runs import losses_of, train

BASE = (
    "--global-batch-size 4 --pipeline-model-parallel-size 2 --pipe-sp-splits 2 --lr 1e-2 --train-iters 6 "
    "--save-interval 2"
)


def train_with_slow_disk(flags: str, run_dir: str) -> None:
    """A run whose background writes begin only after training has gone on for a while."""
    from megatron.seq1f1b.upstream import checkpoints

    write = checkpoints.Save.write

    def write_later(self: checkpoints.Save) -> list[Path]:
        if threading.current_thread() is not threading.main_thread():
            time.sleep(0.5)
        return write(self)

    checkpoints.Save.write = write_later  # type: ignore[method-assign]
    train(flags, run_dir)


def train_on_full_disk(flags: str, run_dir: str) -> None:
    """A run of which one process cannot write in the background."""
    from megatron.seq1f1b.upstream import checkpoints

    def fail(self: checkpoints.Save) -> list[Path]:
        if torch.distributed.get_rank() == 1:
            raise OSError(28, "No space left on device")
        return []

    checkpoints.Save.write = fail  # type: ignore[method-assign]
    train(flags, run_dir)


@pytest.mark.parametrize(
    "flags",
    [
        "--bf16 --use-distributed-optimizer",
        pytest.param("", marks=pytest.mark.slow),
        pytest.param("--fp16", marks=pytest.mark.slow),
    ],
)
def test_an_asynchronous_save_is_a_synchronous_one_bit_for_bit(flags: str, tmp_path: Path) -> None:
    at_once, beside = tmp_path / "at_once", tmp_path / "beside"
    run_distributed(train, 2, f"{BASE} {flags} --save {at_once}", str(tmp_path / "run1"))
    run_distributed(
        train_with_slow_disk, 2, f"{BASE} {flags} --async-save --save {beside}", str(tmp_path / "run2")
    )
    assert losses_of(tmp_path / "run1") == losses_of(tmp_path / "run2")
    assert sorted(path.name for path in beside.iterdir()) == sorted(path.name for path in at_once.iterdir())
    for iteration in (2, 4, 6):
        expected, actual = (read_tensors(root / f"iter_000000{iteration}") for root in (at_once, beside))
        assert len(expected) > 10
        assert expected.keys() == actual.keys()
        for name, tensor in expected.items():
            assert tensor.dtype == actual[name].dtype
            assert torch.equal(tensor, actual[name]), name


def test_a_background_write_that_fails_ends_the_run_everywhere(tmp_path: Path) -> None:
    flags = f"{BASE} --async-save --save {tmp_path / 'save'}"
    with pytest.raises(DistributedError) as failure:
        run_distributed(train_on_full_disk, 2, flags, str(tmp_path / "run"))
    errors = [str(report.error) for report in failure.value.reports]
    assert all("cannot write checkpoint" in error for error in errors)
    assert all("rank 1: [Errno 28] No space left on device" in error for error in errors)
    assert list((tmp_path / "save").iterdir()) == []
