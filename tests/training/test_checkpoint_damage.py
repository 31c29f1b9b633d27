"""A flipped bit in a checkpoint is found before it is loaded, by all processes together."""

from __future__ import annotations

import json
from pathlib import Path

import torch.distributed as dist

from megatron.seq1f1b.errors import DamageError
from tests.harness import run_distributed
from tests.training.runs import losses_of, train
from tests.training.test_checkpoint_folder import flip_a_bit

BASE = "--global-batch-size 4 --pipeline-model-parallel-size 2 --pipe-sp-splits 2 --train-iters 4"


def damaged_then_resumed(save: str, folder: str) -> str:
    """A run, and its newest checkpoint damaged: resumed, and resumed from that one; the refusal."""
    train(f"{BASE} --save-interval 2 --save {save}", f"{folder}/straight")
    if dist.get_rank() == 0:
        flip_a_bit(Path(save) / "iter_0000004" / "__1_0.distcp")
    dist.barrier()
    train(f"{BASE} --load {save}", f"{folder}/resumed")
    try:
        train(f"{BASE} --load {save} --ckpt-step 4", f"{folder}/asked")
    except DamageError as error:
        return str(error)
    return "loaded"


def test_a_run_goes_on_from_the_one_before(tmp_path: Path) -> None:
    save = tmp_path / "save"
    refusals = run_distributed(damaged_then_resumed, 2, str(save), str(tmp_path))
    assert losses_of(tmp_path / "resumed") == losses_of(tmp_path / "straight")[2:]
    checksums = json.loads((save / "iter_0000002" / "checkpoint.json").read_text())["checksums"]
    assert {".metadata", "common.pt", "__0_0.distcp", "__1_0.distcp"} <= checksums.keys()
    assert len(set(refusals)) == 1, "all processes refuse it alike"
    assert "iter_0000004 is damaged: the checksum of __1_0.distcp is" in refusals[0]
