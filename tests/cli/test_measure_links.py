"""tools/measure_links.py: what it measures goes into the planner; what it cannot measure it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--seq-length", "64", "--hidden-size", "16", "--chunks", "3", "--repeats", "2"]


def run(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, *map(str, command)]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(words, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_measured_links_reach_the_planner_and_the_pictures(tmp_path: Path) -> None:
    path = tmp_path / "links.json"
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "4"]
    layout = ["--pipeline-model-parallel-size", "2", "--tensor-model-parallel-size", "2"]
    measured = run(*start, "tools/measure_links.py", *SMALL, *layout, "--output", path)
    assert measured.returncode == 0, measured.stderr
    found = json.loads(path.read_text())
    assert (found["backend"], found["world_size"], found["stages"]) == ("gloo", 4, 2)
    assert [(link["source"], link["destination"]) for link in found["links"]] == [(0, 2), (1, 3)]
    shape = ["--model", "2.7b", "--seq-length", "16384", "--device", "a100", "--links", path]
    planned = run("tools/plan_run.py", *shape, "--devices", "8", "--best", "1")
    assert "links measured, links.json" in planned.stdout, planned.stderr
    counts = ["--schedule", "seq1f1b", "--stages", "2", "--microbatches", "2", "--chunks", "2"]
    for links in ([], ["--links", path]):
        shown = run("tools/show_schedule.py", *counts, *shape[:6], *links, "--format", "json")
        assert shown.returncode == 0, shown.stderr


def test_one_process_has_no_links() -> None:
    alone = run("tools/measure_links.py", *SMALL)
    assert alone.returncode == 2
    assert "start this with torchrun" in alone.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--pipeline-model-parallel-size", "1"], "4 processes cannot be tensor 1 x pipeline 1"),
        (["--tensor-model-parallel-size", "3"], "4 processes cannot be tensor 3"),
        (["--repeats", "0"], "--repeats must be at least 1"),
        (["--chunks", "65"], "65"),
    ],
)
def test_impossible_layouts_and_shapes_are_refused(flags: list[str], message: str) -> None:
    refused = run("tools/measure_links.py", *SMALL, *flags, WORLD_SIZE="4", RANK="0")
    assert refused.returncode == 2
    assert message in refused.stderr
    assert "Traceback" not in refused.stderr
