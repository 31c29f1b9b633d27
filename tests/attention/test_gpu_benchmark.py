"""benchmarks/gpu.py on the processor, at a size for a test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def lines_of(*arguments: str) -> list[dict[str, object]]:
    command = [sys.executable, "benchmarks/gpu.py", "--device", "cpu", "--tiny", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.mark.slow
def test_every_section_reports() -> None:
    lines = lines_of()
    ended = [line for line in lines if "status" in line]
    assert [line["section"] for line in ended] == ["attention", "overhead", "memory", "step"]
    assert all(line["status"] == 0 for line in ended)
    assert all("ratio" in line for line in lines if "chunked_seconds" in line)
    losses = {line["first_loss"] for line in lines if "first_loss" in line}
    assert max(losses) - min(losses) < 1e-4, "every schedule starts from the same model and data"


def test_sections_fit_into_eight_minutes() -> None:
    sys.path.insert(0, str(ROOT))
    from benchmarks.gpu import BUDGET_SECONDS, GRACE_SECONDS

    assert sum(BUDGET_SECONDS.values()) + GRACE_SECONDS * len(BUDGET_SECONDS) < 8 * 60
