"""The check finds a schedule that computes something else, and leaves no trace in one that does not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from megatron.seq1f1b.attention.gradients import KeyAndValue, KVGradients
from megatron.seq1f1b.config import parse_arguments
from megatron.seq1f1b.errors import ParityError
from megatron.seq1f1b.training.parity_check import reference_of
from megatron.seq1f1b.training.prepare import prepare
from tests.config.flags import words
from tests.harness import DistributedError, run_distributed
from tests.training.runs import rows_of, train, train_each

PP2 = "--pipeline-model-parallel-size 2"
BASE = f"--global-batch-size 4 --train-iters 3 --lr 1e-2 {PP2}"
DISTRIBUTED = "--use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather"
TWO = {
    "dropout": "--pipe-sp-splits 4 --hidden-dropout 0.1",
    "fp16": "--pipe-sp-splits 2 --fp16",
    "zero bubble bf16": "--pipe-sp-splits 2 --pipeline-schedule seq1f1b-zb --bf16",
    "experts": "--pipe-sp-splits 2 --num-experts 4 --moe-router-topk 2 --disable-bias-linear",
    "upstream": "--pipeline-schedule interleaved --num-virtual-stages-per-pipeline-rank 2",
}
FOUR = {
    "distributed optimizer": f"--pipe-sp-splits 2 {DISTRIBUTED}",
    "shared group bf16": "--pipe-sp-splits 2 --tensor-model-parallel-size 2 --sequence-parallel --bf16 "
    "--group-query-attention --num-query-groups 1",
}
EXACT = ("iteration", "lm_loss", "grad_norm", "learning_rate", "loss_scale", "is_skipped")


def check_leaves_no_trace(world_size: int, cases: dict[str, str], folder: Path) -> None:
    runs = []
    for name, flags in cases.items():
        runs.append((f"{BASE} {flags}", str(folder / name / "plain")))
        runs.append((f"{BASE} {flags} --parity-check 2", str(folder / name / "checked")))
    run_distributed(train_each, world_size, tuple(runs), timeout_seconds=300.0)
    for name in cases:
        plain, checked = (
            [{key: row[key] for key in EXACT} for row in rows_of(folder / name / which)]
            for which in ("plain", "checked")
        )
        assert checked == plain, name


def test_a_checked_run_is_the_unchecked_one_bit_for_bit(tmp_path: Path) -> None:
    """Weights, optimizer, loss scale, dropout's random numbers and the order of data."""
    check_leaves_no_trace(2, TWO, tmp_path)


def test_so_it_is_under_tensor_and_data_parallelism(tmp_path: Path) -> None:
    check_leaves_no_trace(4, FOUR, tmp_path)


@pytest.mark.slow
def test_a_resumed_run_is_checked_where_it_stands(tmp_path: Path) -> None:
    flags, save = f"{BASE} --pipe-sp-splits 2", tmp_path / "save"
    more = f"--train-iters 5 --load {save}"
    runs = (
        (f"{flags} --save {save}", str(tmp_path / "first")),
        (f"{flags} {more}", str(tmp_path / "plain")),
        (f"{flags} {more} --parity-check 4", str(tmp_path / "checked")),
    )
    run_distributed(train_each, 2, runs)
    plain, checked = ([row["lm_loss"] for row in rows_of(tmp_path / name)] for name in ("plain", "checked"))
    assert checked == plain


def train_without_gradients_of_prefix_keys(flags: str, run_dir: str) -> None:
    """What a schedule would do that forgets dK of the prefix, while dV arrives."""
    add = KVGradients._add_prefix

    def add_values_alone(self: KVGradients, start: int, gradients: KeyAndValue, batch: slice) -> None:
        add(self, start, (torch.zeros_like(gradients[0]), gradients[1]), batch)

    KVGradients._add_prefix = add_values_alone  # type: ignore[method-assign]
    train(flags, run_dir)


@pytest.mark.parametrize("precision", ["", pytest.param("--bf16", marks=pytest.mark.slow)])
def test_a_wrong_gradient_is_found_and_named_and_nothing_is_trained(precision: str, tmp_path: Path) -> None:
    flags = f"{BASE} --pipe-sp-splits 4 --parity-check 1 {precision}"
    with pytest.raises(DistributedError) as failure:
        run_distributed(train_without_gradients_of_prefix_keys, 2, flags, str(tmp_path / "run"))
    cause = failure.value.__cause__
    assert isinstance(cause, ParityError)
    assert "self_attention.linear_qkv.bias (keys)" in str(cause)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_same_mistake_passes_where_the_tolerance_allows_it(tmp_path: Path) -> None:
    flags = f"{BASE} --pipe-sp-splits 4 --parity-check 1 --parity-tolerance 1e3"
    run_distributed(train_without_gradients_of_prefix_keys, 2, flags, str(tmp_path))
    assert len(rows_of(tmp_path)) == 3


@pytest.mark.parametrize(
    ("flags", "reference"),
    [
        ("--pipe-sp-splits 4", "1f1b"),
        ("--pipeline-schedule 1f1b --pipe-sp-splits 1", "seq1f1b"),
        ("--pipe-sp-splits 4 --reset-attention-mask", "seq1f1b"),
        ("--pipe-sp-splits 4 --num-virtual-stages-per-pipeline-rank 2", "interleaved"),
        (
            "--pipe-sp-splits 4 --num-virtual-stages-per-pipeline-rank 2 --global-batch-size 6",
            "seq1f1b-interleaved",
        ),
    ],
)
def test_megatron_cores_own_schedule_is_the_reference_where_it_serves(flags: str, reference: str) -> None:
    run = prepare(parse_arguments(words(flags)), world_size=4)
    found = reference_of(run)
    assert found.layout.schedule == reference
    assert found.boundaries == (0, 64)
