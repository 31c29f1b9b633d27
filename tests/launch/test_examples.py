"""The launch scripts of examples/: each can be started as it is, and fits the GPUs that it names."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from megatron.seq1f1b.config import parse_arguments, validate

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "examples" / "launch").glob("*.sh"))
CLUSTER_SCRIPTS = [path for path in SCRIPTS if path.name != "cpu_tutorial.sh"]
GPU_BYTES = 80e9
MOCK = "--mock-data --tokenizer-type NullTokenizer --vocab-size 50256"

LENGTHS = [
    ("pretrain_2.7b_8_gpus.sh", "SEQ_LENGTH=16384"),
    ("pretrain_2.7b_8_gpus.sh", "SEQ_LENGTH=49152"),
    ("pretrain_7b_32_gpus.sh", "SEQ_LENGTH=131072"),
    ("pretrain_13b_32_gpus.sh", "SEQ_LENGTH=131072 PP_SP=8"),
    ("pretrain_30b_64_gpus.sh", "SEQ_LENGTH=131072 RECOMPUTE=full"),
]
"""The ends of what the scripts' heads say."""


def dry_run(script: str, variables: str = "") -> str:
    """What a script prints that starts nothing."""
    given = dict(each.split("=") for each in variables.split())
    environment = {**os.environ, "DRY_RUN": "1", "PYTHON": sys.executable, **given}
    done = subprocess.run(
        ["bash", str(ROOT / "examples" / "launch" / script)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def command_in(printed: str) -> tuple[list[str], int]:
    """pretrain_gpt.py's flags, and the number of processes."""
    (line,) = (line for line in printed.splitlines() if line.startswith("torchrun "))
    words = shlex.split(line)
    nodes = int(words[words.index("--nnodes") + 1]) if "--nnodes" in words else 1
    per_node = int(words[words.index("--nproc_per_node") + 1])
    return words[words.index("pretrain_gpt.py") + 1 :], nodes * per_node


def check(printed: str) -> None:
    flags, world_size = command_in(printed)
    layout = validate(parse_arguments([*flags, *MOCK.split()]), world_size=world_size)
    assert layout.data_parallel_size * layout.num_microbatches == layout.global_batch_size
    assert layout.schedule == "seq1f1b"
    found = re.search(r"most on stage \d+: .* = ([\d.]+) GB", printed)
    assert found is not None
    assert float(found[1]) * 1e9 < GPU_BYTES


@pytest.mark.parametrize("path", CLUSTER_SCRIPTS, ids=lambda path: path.stem)
def test_a_script_can_be_started_and_fits(path: Path) -> None:
    check(dry_run(path.name))


@pytest.mark.slow
@pytest.mark.parametrize(("script", "variables"), LENGTHS)
def test_the_lengths_that_a_script_names_fit(script: str, variables: str) -> None:
    check(dry_run(script, variables))


@pytest.mark.slow
@pytest.mark.parametrize("path", CLUSTER_SCRIPTS, ids=lambda path: path.stem)
def test_the_models_own_code_runs_on_tensors_without_memory(path: Path) -> None:
    flags, world_size = command_in(dry_run(path.name))
    for flag in ("--save", "--load", "--save-interval"):  # this machine's disk need not hold the checkpoints
        if flag in flags:
            at = flags.index(flag)
            del flags[at : at + 2]
    flags = [flag for flag in flags if flag not in ("--exit-signal-handler", "--finetune")]
    command = [sys.executable, "pretrain_gpt.py", "--dry-run", "--world-size", str(world_size)]
    done = subprocess.run(
        [*command, *flags, *MOCK.split()], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "this run would start" in done.stdout


def test_fine_tuning_names_the_variables_that_it_needs() -> None:
    done = subprocess.run(
        ["bash", str(ROOT / "examples/launch/finetune_long_documents.sh")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "what to start from, as in CHECKPOINT=Meta-Llama-3-8B" in done.stderr


@pytest.mark.slow
def test_the_tutorial_compares_two_schedules_with_the_same_loss(tmp_path: Path) -> None:
    small = {"NUM_LAYERS": "4", "HIDDEN_SIZE": "64", "SEQ_LENGTH": "128", "TRAIN_ITER": "2"}
    small |= {
        "SAMPLE_DIR": str(tmp_path / "sample"),
        "SAMPLE_MEGABYTES": "2",
        "RUN_DIR": str(tmp_path / "runs"),
    }
    done = subprocess.run(
        ["bash", str(ROOT / "examples/launch/cpu_tutorial.sh")],
        env={**os.environ, "PYTHON": sys.executable, **small},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split("|") for line in done.stdout.splitlines() if re.match(r"\| (seq)?1f1b ", line)]
    losses = [float(row[-2]) for row in rows]
    assert len(losses) == 2
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
