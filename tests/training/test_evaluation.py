"""Validation through every schedule: the loss of one process without chunks, at the steps asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from megatron.core import parallel_state

from megatron.seq1f1b.config import parse_arguments
from megatron.seq1f1b.training.build import build
from megatron.seq1f1b.training.distributed import join
from megatron.seq1f1b.training.evaluation import evaluate
from megatron.seq1f1b.training.prepare import prepare
from megatron.seq1f1b.training.pretrain import read_data
from megatron.seq1f1b.training.steps import data_iterators, make_forward_backward
from tests.harness import run_distributed
from tests.parity.layouts import COMMON, LLAMA_LIKE
from tests.training.runs import rows_of, train

EVALUATED = "--global-batch-size 4 --eval-interval 2 --eval-iters 2"
PP2 = "--pipeline-model-parallel-size 2"
VIRTUAL = "--num-virtual-stages-per-pipeline-rank 2"
LAYOUTS = (
    f"{PP2} --pipeline-schedule 1f1b",
    f"{PP2} --pipeline-schedule interleaved {VIRTUAL}",
    f"{PP2} --pipeline-schedule seq1f1b --pipe-sp-splits 1",
    f"{PP2} --pipeline-schedule seq1f1b --pipe-sp-splits 4",
    f"{PP2} --pipeline-schedule seq1f1b --pipe-sp-splits 4 --decoder-first-pipeline-num-layers 1",
    f"{PP2} --pipeline-schedule seq1f1b-interleaved {VIRTUAL} --pipe-sp-splits 4",
    f"{PP2} --pipeline-schedule seq1f1b-zb --pipe-sp-splits 2",
)
LAYOUTS_OF_FOUR = (
    f"{PP2} --pipe-sp-splits 4",
    f"{PP2} --tensor-model-parallel-size 2 --sequence-parallel --pipe-sp-splits 2",
)


def losses(layouts: tuple[str, ...]) -> list[tuple[float, float]]:
    """The losses of two validations of untrained models under each layout in turn."""
    return [validation_losses(flags) for flags in layouts]


def validation_losses(flags: str) -> tuple[float, float]:
    words = f"{COMMON} {LLAMA_LIKE} {EVALUATED} {flags}".split()
    run = prepare(parse_arguments(words), world_size=dist.get_world_size())
    join(run.config, run.layout)
    try:
        trained, forward_backward = build(run), make_forward_backward(run)
        iterators = data_iterators(run, read_data(run).valid)
        found = [evaluate(run, trained, forward_backward, iterators) for _ in range(2)]
        grads = [buffer.grad_data.abs().max() for part in trained.parts for buffer in part.buffers]
        assert all(part.training for part in trained.parts)
        assert float(torch.stack(grads).max()) == 0.0, "validation leaves no gradients"
    finally:
        parallel_state.destroy_model_parallel()
    return found[0], found[1]


@pytest.mark.parametrize(("world_size", "layouts"), [(2, LAYOUTS), (4, LAYOUTS_OF_FOUR)])
def test_validation_loss_is_that_of_one_process(world_size: int, layouts: tuple[str, ...]) -> None:
    (expected,) = run_distributed(losses, 1, ("--pipeline-schedule 1f1b",))[0]
    assert expected[0] != expected[1], "validations go on through the samples"
    for rank in run_distributed(losses, world_size, layouts):
        for flags, found in zip(layouts, rank, strict=True):
            assert found == pytest.approx(expected, rel=1e-6), flags


def test_the_row_of_the_step_before_has_the_validation_loss(tmp_path: Path) -> None:
    run_distributed(train, 2, f"{EVALUATED} --train-iters 5 {PP2} --pipe-sp-splits 4", str(tmp_path))
    measured = [row["validation_loss"] for row in rows_of(tmp_path)]
    assert [loss is not None for loss in measured] == [False, True, False, True, False]


def test_validations_do_not_change_the_training(tmp_path: Path) -> None:
    folders = [tmp_path / "with", tmp_path / "without"]
    for folder, flags in zip(folders, (EVALUATED, "--global-batch-size 4"), strict=True):
        run_distributed(train, 2, f"{flags} --train-iters 4 {PP2} --pipe-sp-splits 4", str(folder))
    with_them, without = ([row["lm_loss"] for row in rows_of(folder)] for folder in folders)
    assert with_them == without
