"""exp.sh, small: from text to a trained model, a second time without repeating what is there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.commands import ROOT

SMALL = {
    "NUM_LAYERS": "4",
    "HIDDEN_SIZE": "64",
    "SEQ_LENGTH": "128",
    "GLOBAL_BATCH": "2",
    "TRAIN_ITER": "3",
    "SAMPLE_MEGABYTES": "2",
}


def run_exp(folder: Path, *flags: str, **variables: str) -> str:
    """What exp.sh printed; it is called from `folder`, with paths relative to it."""
    environment = {**os.environ, "PYTHON": sys.executable, **SMALL, **variables}
    environment.update(SAMPLE_DIR="my sample", RUN_DIR=variables.get("RUN_DIR", "my run"))
    completed = subprocess.run(
        ["bash", str(ROOT / "exp.sh"), *flags],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    return f"{completed.stdout}\nexit status {completed.returncode}"


def test_a_second_run_only_trains(tmp_path: Path) -> None:
    folder = tmp_path / "a folder with spaces"
    folder.mkdir()
    first = run_exp(folder)
    assert "exit status 0" in first, first
    assert "trained  3 steps on 768 tokens" in first
    assert {"config.json", "metrics.jsonl", "train.log"} <= {
        each.name for each in (folder / "my run").iterdir()
    }
    two = {"PP_SIZE": "2", "GPUS_PER_NODE": "2"}
    second = run_exp(folder, "--train-iters", "1", RUN_DIR="again", SCHEDULE="1f1b", **two)
    assert "exit status 0" in second, second
    assert "trained  1 steps" in second, "flags on the command line win"
    for name in ("sample corpus", "tokenizer", "token files"):
        assert f"{name}: making" in first
        assert f"{name}: already there" in second


def test_data_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    printed = run_exp(tmp_path, DATA_PATH="text_document")
    assert "needs its tokenizer" in printed
    assert "exit status 2" in printed


@pytest.mark.parametrize(
    ("gpus", "tensor", "stages", "processes"),
    [
        (0, 1, 4, 4),
        (0, 2, 4, 8),
        (1, 1, 1, 1),
        (3, 1, 2, 2),
        (6, 1, 4, 4),
        (8, 1, 4, 8),
        (8, 2, 4, 8),
        (12, 1, 4, 8),
        (16, 1, 4, 16),
    ],
)
def test_stages_and_replicas_fit_the_gpus_and_the_batch(
    gpus: int, tensor: int, stages: int, processes: int
) -> None:
    script = f"""
        source "{ROOT}/tools/launch/settings.sh"
        count_gpus() {{ echo {gpus}; }}
        TP_SIZE={tensor} GLOBAL_BATCH=4 PLACE=machine
        choose_settings
        echo "$PP_SIZE $GPUS_PER_NODE"
    """
    printed = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert printed.stdout.split() == [str(stages), str(processes)]


def test_a_plan_file_is_seen_from_where_the_command_was_typed(tmp_path: Path) -> None:
    folder = tmp_path / "a folder with spaces"
    folder.mkdir()
    script = f"""
        source "{ROOT}/exp.sh"
        SCHEDULE=mine.CSV
        resolve_paths
        cd "{ROOT}"
        source tools/launch/settings.sh
        PLACE=machine
        choose_settings
        echo "$SCHEDULE, $PP_SP chunks, $(basename "$RUN_DIR")"
    """
    printed = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True, check=True)
    assert printed.stdout.startswith(f"{folder}/mine.CSV, 4 chunks, ")
    assert "-tiny-mine.CSV-pp" in printed.stdout


def test_the_head_and_the_manual_name_the_defaults_that_the_code_has() -> None:
    head = (ROOT / "exp.sh").read_text().split("set -euo pipefail")[0]
    body = "".join((ROOT / f"tools/launch/{name}.sh").read_text() for name in ("settings", "sample"))
    named = dict(re.findall(r"\b([A-Z][A-Z_]+)=([\w/]+)", head.split("Variables")[1]))
    coded = dict(re.findall(r"^ +([A-Z_]+)=\$\{\1:-([\w/]+)\}", body, flags=re.MULTILINE))
    assert coded
    assert {name: named.get(name) for name in coded} == coded
    manual = (ROOT / "docs/README.md").read_text()
    for name, default in coded.items():
        row = next(line for line in manual.splitlines() if line.startswith("|") and f"`{name}`" in line)
        cells = [cell.replace("`", "").split(", ") for cell in row.strip("|").split(" | ")]
        position = [each.strip() for each in cells[0]].index(name)
        assert cells[1][position].strip() == default, row
