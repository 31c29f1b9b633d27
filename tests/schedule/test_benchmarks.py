"""The benchmark commands run, on layouts small enough for a test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def run(script: str, *arguments: str, cwd: Path) -> dict[str, Any]:
    """The JSON object in a benchmark's last line."""
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return summary


def test_schedule_grid(tmp_path: Path) -> None:
    summary = run("schedule_grid.py", "--largest", "2", "--largest-virtual", "2", cwd=tmp_path)
    assert summary["failures"] == []
    assert summary["valid"]["seq1f1b-interleaved"] == 2**3 * 2 * 2
    assert summary["largest_bubble_error"] < 1e-9


def test_schedule_scale(tmp_path: Path) -> None:
    layout = ("--stages", "2", "--microbatches", "4", "--chunks", "2", "--communication")
    summary = run("schedule_scale.py", *layout, cwd=tmp_path)
    assert summary["compute_actions"] == 2 * 4 * 2 * 2 * 2
    assert summary["actions"] > summary["compute_actions"]
    assert summary["peak_rss_gib"] < 1


@pytest.mark.slow
def test_executor_truth(tmp_path: Path) -> None:
    layout = ("--stages", "2", "--microbatches", "2", "--chunks", "2", "--rounds", "2")
    summary = run("executor_truth.py", *layout, cwd=tmp_path)
    assert (summary["schedule"], summary["chunks"]) == ("seq1f1b-zb", 2)
    assert len(summary["rounds"]) == 2
    assert summary["measured_over_simulated"] >= summary["best"] > 0.95, "waits are never shorter than asked"
    assert summary["late_waits"] >= 1.0
