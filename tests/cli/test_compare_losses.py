"""The tool that compares two runs step by step."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "compare_losses.py"


def write(run: Path, losses: list[float]) -> None:
    run.mkdir()
    rows = [json.dumps({"iteration": step, "lm_loss": loss}) for step, loss in enumerate(losses, start=1)]
    (run / "metrics.jsonl").write_text("\n".join(rows) + "\n")


@pytest.mark.parametrize(
    ("other", "words", "status", "message"),
    [
        ([4.0, 2.0], "--assert-equal", 0, "2 of them equal"),
        ([4.0, 2.002], "--tolerance 1e-2", 0, "at step 2"),
        ([4.0, 2.002], "--tolerance 1e-4", 1, "more than 0.0001"),
        ([4.0, 2.002], "--assert-equal", 1, "not equal"),
        ([4.0], "--assert-equal", 1, "not equal"),
        ([4.0, float("nan")], "--tolerance 1", 1, "more than 1"),
    ],
)
def test_comparison(tmp_path: Path, other: list[float], words: str, status: int, message: str) -> None:
    write(tmp_path / "a", [4.0, 2.0])
    write(tmp_path / "b", other)
    command = [sys.executable, TOOL, "a", "b", *words.split()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    assert message in done.stdout


def test_a_missing_run_is_named(tmp_path: Path) -> None:
    command = [sys.executable, TOOL, "a", "b"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "a/metrics.jsonl" in done.stderr
