"""A checkpoint written anew by one process is the same to a run: resumed, it goes on bit for bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

from megatron.seq1f1b.errors import CheckpointError
from megatron.seq1f1b.training.checkpoint.integrity import find_sound
from megatron.seq1f1b.training.checkpoint.manifest import read_manifest
from megatron.seq1f1b.training.checkpoint.reshard import reshard
from megatron.seq1f1b.training.checkpoint.tensors import read_tensors
from tests.harness import run_distributed
from tests.training.runs import losses_of, train
from tests.training.test_checkpoint_folder import flip_a_bit

ROOT = Path(__file__).resolve().parents[2]
PP2 = "--global-batch-size 4 --pipeline-model-parallel-size 2 --pipe-sp-splits 2 --bf16 --hidden-dropout 0.1"
TP2 = "--global-batch-size 4 --tensor-model-parallel-size 2"


def resharded_and_resumed(folder: str) -> None:
    """Four steps; resharded after two, with the optimizer and without, and gone on from there."""
    save, whole, bare = (f"{folder}/{name}" for name in ("save", "whole", "bare"))
    train(f"{PP2} --train-iters 4 --save-interval 2 --save {save}", f"{folder}/straight")
    if dist.get_rank() == 0:
        source = Path(save) / "iter_0000002"
        manifest = read_manifest(source)
        reshard(source, manifest, Path(whole), num_files=1, has_optimizer=True)
        reshard(source, manifest, Path(bare), num_files=3, has_optimizer=False)
    dist.barrier()
    train(f"{PP2} --train-iters 4 --load {whole}", f"{folder}/resumed")
    train(f"{TP2} --train-iters 4 --load {bare}", f"{folder}/other")


def check(save: Path) -> tuple[int, str]:
    """Status and output of the command that compares checksums."""
    command = [sys.executable, str(ROOT / "tools" / "convert_checkpoint.py"), "check", "--load", str(save)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


@pytest.mark.slow
def test_a_run_goes_on_from_it(tmp_path: Path) -> None:
    run_distributed(resharded_and_resumed, 2, str(tmp_path))
    assert losses_of(tmp_path / "resumed") == losses_of(tmp_path / "straight")[2:]
    assert len(losses_of(tmp_path / "other")) == 2
    written, whole, bare = (
        read_tensors(tmp_path / name / "iter_0000002") for name in ("save", "whole", "bare")
    )
    assert whole.keys() == written.keys()
    assert bare.keys() == {name for name in written if not name.startswith("optimizer.")}
    assert all(value.equal(written[name]) for values in (whole, bare) for name, value in values.items())
    files = {
        root: len(list((tmp_path / root / "iter_0000002").glob("*.distcp"))) for root in ("whole", "bare")
    }
    assert files == {"whole": 1, "bare": 3}
    folder, manifest = find_sound(tmp_path / "whole")
    with pytest.raises(CheckpointError, match="already has iter_0000002"):
        reshard(folder, manifest, tmp_path / "save", num_files=1, has_optimizer=True)
    assert check(tmp_path / "whole") == (0, f"{folder} is as it was written, by its 4 checksums\n")
    flip_a_bit(folder / "__0_0.distcp")
    status, said = check(tmp_path / "whole")
    assert status == 1
    assert said.startswith(f"checkpoint {folder} is damaged: the checksum of __0_0.distcp is")
    with pytest.raises(CheckpointError, match=r"is damaged: the checksum of __0_0\.distcp is"):
        find_sound(tmp_path / "whole")
