"""What a run starts from is checked before processes join."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from megatron.seq1f1b.config import parse_arguments
from megatron.seq1f1b.errors import Seq1F1BError
from megatron.seq1f1b.training.checkpoint.compatibility import model_of, optimizer_of
from megatron.seq1f1b.training.checkpoint.folder import begin, publish
from megatron.seq1f1b.training.checkpoint.manifest import FORMAT, Manifest, write_manifest
from megatron.seq1f1b.training.checkpoint.start import Start, find_start
from megatron.seq1f1b.training.prepare import Run, prepare
from tests.config.flags import words


def run_of(extra: str) -> Run:
    return prepare(parse_arguments(words(extra)), world_size=2)


def find(extra: str) -> Start | None:
    return find_start(run_of(extra))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A checkpoint of the small run after 2 steps of 8 samples."""
    return save(tmp_path, "")


def save(folder: Path, extra: str) -> Path:
    run, partial = run_of(extra), begin(folder, 2)
    manifest = Manifest(
        format=FORMAT,
        iteration=2,
        consumed_samples=16,
        has_optimizer=True,
        has_rng=True,
        model=json.loads(json.dumps(model_of(run))),
        optimizer=optimizer_of(run.config),
        layout={},
        versions={},
        configuration=json.loads(json.dumps(asdict(run.config))),
        files={},
    )
    write_manifest(partial, manifest)
    publish(partial, 2)
    return folder


def test_no_checkpoint_is_a_new_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert find("") is None
    assert find(f"--load {tmp_path}") is None
    assert "holds no checkpoint: starting from initial weights" in capsys.readouterr().out


def test_another_layout_may_load(saved: Path) -> None:
    layouts = ("", "--pipeline-model-parallel-size 1", "--pipe-sp-splits 1", "--use-distributed-optimizer")
    for extra in (*layouts, "--global-batch-size 4", "--bf16"):
        assert find(f"--load {saved} {extra}") is not None


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("--num-layers 4 --swiglu", "--num-layers is 8 there and 4 here; --ffn-hidden-size is 128"),
        (
            "--hidden-size 64",
            "(the first weight that differs, word_embeddings.weight, is [128, 32] there and [128, 64] here)",
        ),
        ("--swiglu --ffn-hidden-size 96", "linear_fc1.weight, is [128, 32] there and [192, 32] here"),
        ("--vocab-size 128", "ids of the tokenizer is 128 there and 129 here"),
        ("--position-embedding-type rope", "--position-embedding-type is learned_absolute there and rope"),
        ("--softmax-scale 0.5", "--softmax-scale is unset there and 0.5 here"),
        ("--attention-output-gate", "linear_qkv.weight, is [96, 32] there and [128, 32] here"),
        ("--global-batch-size 6", "after 16 samples, which is no multiple of --global-batch-size 6"),
        ("--train-iters 1", "stands after step 2, and the run ends at step 1: --train-iters and"),
        (
            "--optimizer sgd",
            "--sgd-momentum above 0 is unset there and True here; give the flags it was trained with",
        ),
        ("--ckpt-step 3", "there are: 2"),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused(saved: Path, extra: str, message: str) -> None:
    with pytest.raises(Seq1F1BError) as refusal:
        find(f"--load {saved} {extra}")
    assert message in str(refusal.value)


def test_fine_tuning_may_stretch_rotary_periods(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rope = "--position-embedding-type rope"
    there = f"--load {save(tmp_path, rope)} {rope} --use-rope-scaling --rope-scaling-factor 4"
    with pytest.raises(
        Seq1F1BError, match=r"another model: --rope-scaling-factor is unset there and 4.0 here"
    ):
        find(there)
    assert find(f"{there} --finetune") is not None
    assert "with other rotary periods than the checkpoint's: --rope-scaling-factor" in capsys.readouterr().out


def test_another_order_of_samples_is_said(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert find(f"--load {saved}") is not None
    assert "order of samples" not in capsys.readouterr().out
    assert find(f"--load {saved} --seed 7 --dataloader-type cyclic") is not None
    said = capsys.readouterr().out
    assert "--dataloader-type was single and is cyclic; --seed was 1234 and is 7" in said
    assert "first 16 samples of its own order" in said


def test_a_disk_too_small_for_one_checkpoint_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("megatron.seq1f1b.training.checkpoint.start.free_bytes", lambda root: 1_000_000)
    with pytest.raises(Seq1F1BError, match=r"has room for 0.0 GB, and a checkpoint of 0.1 M parameters"):
        find(f"--save {tmp_path}")
    assert find(f"--save {tmp_path} --no-save-optim") is None


def test_a_dry_run_says_that_this_disk_is_too_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("megatron.seq1f1b.training.checkpoint.start.free_bytes", lambda root: 1_000_000)
    assert find(f"--save {tmp_path} --dry-run") is None
    assert "this machine's disk would be too small: --save" in capsys.readouterr().out


@pytest.mark.parametrize(
    "extra",
    ["--optimizer sgd --no-load-optim", "--optimizer sgd --finetune", "--finetune --global-batch-size 6"],
)
def test_weights_alone_fit_more_runs(saved: Path, extra: str) -> None:
    assert find(f"--load {saved} {extra}") is not None


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("--finetune", "--finetune means nothing without --load"),
        ("--keep-latest 2", "--keep-latest means nothing without --save"),
        ("--ckpt-step 2", "--ckpt-step means nothing without --load"),
        ("--load absent --exit-on-missing-checkpoint", "--load absent holds no checkpoint"),
        ("--save=", "--save names no folder"),
        ("--save /proc/no", "--save /proc/no cannot be written"),
        ("--run-dir setup.py/no", "--run-dir setup.py/no cannot be written: /"),
        ("--tensorboard-dir setup.py", "setup.py: Not a directory; name another folder"),
        ("--load setup.py", "--load setup.py is a file; give the folder"),
        ("--load absent --finetune", "--load absent holds no checkpoint, so there is nothing to --finetune"),
    ],
)
def test_flags_that_cannot_be_served_are_refused(extra: str, message: str) -> None:
    with pytest.raises(Seq1F1BError) as refusal:
        find(extra)
    assert message in str(refusal.value)
