"""A run goes on with the plain optimizer where the distributed one saved, and the other way round.

Bit for bit: of two data-parallel processes gradients are the same whoever adds, and none is clipped, for
the norm is a sum in another order.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness import run_distributed
from tests.training.runs import rows_of, train_each

BASE = "--global-batch-size 4 --lr-decay-iters 6 --lr 1e-2 --clip-grad 0"
PP2 = "--pipeline-model-parallel-size 2 --pipe-sp-splits 2"
DISTRIBUTED = "--use-distributed-optimizer"
EXPERTS = (
    "--num-experts 4 --expert-model-parallel-size 2 --disable-bias-linear --moe-aux-loss-coeff 0.1 "
    "--pipe-sp-splits 2"
)
CASES = {
    "fp32": (2, "--pipe-sp-splits 2"),
    "bf16": (2, "--pipe-sp-splits 2 --bf16"),
    "fp16": (2, "--pipe-sp-splits 2 --fp16 --initial-loss-scale 1048576 --hysteresis 1"),
    "pipeline": (4, f"{PP2} --bf16 --overlap-grad-reduce"),
    "virtual": (4, f"{PP2} --num-virtual-stages-per-pipeline-rank 2 --swiglu"),
    "tensor": (4, "--tensor-model-parallel-size 2 --sequence-parallel --pipe-sp-splits 2 --swiglu --bf16"),
    "experts": (2, EXPERTS),
    "experts bf16": (2, f"{EXPERTS} --bf16"),
}
SLOW = [pytest.param(case, marks=pytest.mark.slow) for case in CASES if case != "fp32"]


@pytest.mark.parametrize("case", ["fp32", *SLOW])
def test_optimizers_take_over_each_others_state(case: str, tmp_path: Path) -> None:
    world_size, flags = CASES[case]
    names = ("plain", "distributed")
    folders = {name: str(tmp_path / name) for name in (*names, "to plain", "to distributed")}
    saves = {name: str(tmp_path / f"save {name}").replace(" ", "-") for name in names}
    optimizers = {"plain": "", "distributed": DISTRIBUTED}
    first = f"{BASE} {flags} --save-interval 3 --train-iters 6"
    runs = [(f"{first} {optimizers[name]} --save {saves[name]}", folders[name]) for name in names]
    for reader, writer in (names, names[::-1]):
        load = f"{BASE} {flags} --train-iters 6 --load {saves[writer]} --ckpt-step 3 {optimizers[reader]}"
        runs.append((load, folders[f"to {reader}"]))
    run_distributed(train_each, world_size, tuple(runs))
    for reader, writer in (names, names[::-1]):
        found, expected = rows_of(folders[f"to {reader}"]), rows_of(folders[writer])[3:]
        assert [row["lm_loss"] for row in found] == [row["lm_loss"] for row in expected]
        assert [row["loss_scale"] for row in found] == [row["loss_scale"] for row in expected]


@pytest.mark.parametrize("optimizer", ["", pytest.param(DISTRIBUTED, marks=pytest.mark.slow)])
def test_flags_decide_what_the_optimizer_is_told_after_a_resume(optimizer: str, tmp_path: Path) -> None:
    """A learning rate or an Adam beta that changes is not overruled by what the checkpoint holds."""
    told = {
        "slower": "--lr 5e-3",
        "as before": "",
        "forgetful": "--adam-beta1 0.1",
        "faster embeddings": "--decoupled-lr 4e-2",
        "decay in the gradient": "--no-decoupled-weight-decay --weight-decay 1",
    }
    flags = f"{BASE} --lr-decay-style constant --decoupled-lr 2e-2 {optimizer} --train-iters"
    runs = [(f"{flags} 2 --save {tmp_path / 'save'}", str(tmp_path / "first"))]
    runs += [
        (f"{flags} 4 --load {tmp_path / 'save'} {words}", str(tmp_path / name))
        for name, words in told.items()
    ]
    run_distributed(train_each, 2, tuple(runs))
    rows = {name: rows_of(tmp_path / name) for name in told}
    assert [row["learning_rate"] for row in rows["slower"]] == [5e-3, 5e-3]
    assert [row["learning_rate"] for row in rows["as before"]] == [1e-2, 1e-2]
    for name in ("forgetful", "faster embeddings", "decay in the gradient"):
        assert rows[name][1]["lm_loss"] != rows["as before"][1]["lm_loss"], name
