"""Validation through every schedule: the loss of one process without chunks, at the steps asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from megatron.core import parallel_state

from megatron.seq1f1b.config import parse_arguments
from megatron.seq1f1b.errors import ConfigurationError
from megatron.seq1f1b.training.build import build
from megatron.seq1f1b.training.datasets import read_data
from megatron.seq1f1b.training.distributed import join
from megatron.seq1f1b.training.evaluation import evaluate
from megatron.seq1f1b.training.prepare import prepare
from megatron.seq1f1b.training.samples import check_evaluations, validation_prefixes
from megatron.seq1f1b.training.steps import data_iterators, make_forward_backward
from tests.config.flags import words
from tests.data.corpora import random_documents, write_pair
from tests.harness import run_distributed
from tests.parity.layouts import COMMON, LLAMA_LIKE
from tests.training.runs import rows_of, train, train_each

EVALUATED = "--global-batch-size 4 --eval-interval 2 --eval-iters 2"
PP2 = "--pipeline-model-parallel-size 2"
VIRTUAL = "--num-virtual-stages-per-pipeline-rank 2"
LAYOUTS = (
    f"{PP2} --pipeline-schedule 1f1b",
    f"{PP2} --pipeline-schedule interleaved {VIRTUAL}",
    f"{PP2} --pipeline-schedule seq1f1b --pipe-sp-splits 1",
    f"{PP2} --pipeline-schedule seq1f1b --pipe-sp-splits 4 --hidden-dropout 0.5",  # which only training drops
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
        iterators = data_iterators(run, read_data(run).validation["validation"])
        with torch.autograd.graph.saved_tensors_hooks(refuse_to_keep, refuse_to_keep):
            found = [evaluate(run, trained, forward_backward, iterators) for _ in range(2)]
        grads = [buffer.grad_data.abs().max() for part in trained.parts for buffer in part.buffers]
        assert all(part.training for part in trained.parts)
        assert float(torch.stack(grads).max()) == 0.0, "validation leaves no gradients"
    finally:
        parallel_state.destroy_model_parallel()
    return found[0], found[1]


def refuse_to_keep(activation: torch.Tensor) -> torch.Tensor:
    raise AssertionError(f"validation keeps an activation of shape {tuple(activation.shape)} for a backward")


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


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Prefixes of small pairs of files, by name; ids below 127 and end-of-document 0."""
    folder = tmp_path_factory.mktemp("files")
    return {
        name: write_pair(
            folder / name, random_documents(num_documents=200, vocab_size=127, eod=0, seed=number)
        )
        for number, name in enumerate(("train", "code", "prose", "test"))
    }


def test_every_validation_set_has_a_loss_of_its_own(files: dict[str, str], tmp_path: Path) -> None:
    """That which it has alone; and a run that resumes between validations goes on with each."""
    flags = (
        f"--global-batch-size 4 {PP2} --pipe-sp-splits 4 --train-iters 4 --lr-decay-iters 4 --eval-iters 1 "
        f"--eval-interval 1 --no-mock-data --train-data-path {files['train']} --valid-data-path"
    )
    several = f"{flags} {files['code']} {files['prose']} --multiple-validation-sets"
    save = tmp_path / "save"
    folders = {name: str(tmp_path / name) for name in ("both", "prose", "resumed")}
    runs = (
        (f"{several} --test-data-path {files['test']}", folders["both"]),
        (f"{flags} {files['prose']}", folders["prose"]),
        (f"{several} --save {save} --exit-interval 2", folders["resumed"]),
        (f"{several} --load {save}", folders["resumed"]),
    )
    run_distributed(train_each, 2, runs)
    rows = {name: rows_of(folder) for name, folder in folders.items()}
    losses = [row["validation_losses"] for row in rows["both"]]
    assert [each["prose"] for each in losses] == [row["validation_loss"] for row in rows["prose"]]
    assert rows["prose"][0]["validation_losses"] is None
    assert len({*losses[0].values(), *losses[1].values()}) == 4, "sets differ, and every validation goes on"
    assert [row["validation_loss"] for row in rows["both"]] == [sum(each.values()) / 2 for each in losses]
    assert [row["validation_losses"] for row in rows["resumed"]] == losses
    assert [row["test_loss"] is not None for row in rows["both"]] == [False, False, False, True]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("--multiple-validation-sets", "given is none"),
        ("--valid-data-path a --multiple-validation-sets", "two or more different prefixes"),
        ("--valid-data-path 0.3 a 0.7 b --multiple-validation-sets", "no weights; given is 0.3 a 0.7 b"),
        ("--test-data-path a", "--test-data-path a is not read with --eval-iters 0"),
    ],
)
def test_refused_evaluations(extra: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        check_evaluations(parse_arguments(words(extra)))
    assert message in str(refusal.value)


def test_sets_of_one_name_are_named_by_their_paths() -> None:
    data = parse_arguments(words("--multiple-validation-sets --valid-data-path en/web fr/web")).data
    assert list(validation_prefixes(data)) == ["en/web", "fr/web"]
