"""The published bars: one overhead for all, and nothing missed by more than was promised."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "published_memory.py"


def test_every_cell_is_as_published() -> None:
    done = subprocess.run([sys.executable, str(BENCHMARK)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()[1:25]]
    assert len(lines) == 24
    assert "MISS" not in done.stdout
    for _, _, schedule, published, estimate, *_, last in lines:
        if published == "OOM":
            assert float(estimate) > 80.0
        elif schedule.startswith("seq1f1b"):
            assert float(estimate) <= float(published)
            assert abs(int(last.rstrip("%"))) <= 20
        else:
            assert abs(float(estimate) / float(published) - 1) <= 0.15
