from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from megatron.seq1f1b.schedule import make_plan, plan_to_csv

TOOL = Path(__file__).resolve().parents[2] / "tools" / "show_schedule.py"
LAYOUT = ("--stages", "2", "--microbatches", "2", "--chunks", "2")


def show(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the tool from a foreign directory, without the repository on the path."""
    return subprocess.run(
        [sys.executable, str(TOOL), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def test_json_has_the_agreed_keys(tmp_path: Path) -> None:
    done = show("--schedule", "seq1f1b", *LAYOUT, "--format", "json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert list(shown) == [
        "makespan_seconds",
        "bubble_fraction",
        "bubble_fraction_per_stage",
        "peak_activation_microbatches_per_stage",
        "actions",
    ]
    assert shown["makespan_seconds"] == 15.0
    assert shown["bubble_fraction"] == pytest.approx(1 / 5)
    assert shown["peak_activation_microbatches_per_stage"] == [1.5, 1.0]
    assert shown["actions"][1][:3] == ["1F0.0", "1F0.1", "1B0.1"]


def test_grid_is_the_default(tmp_path: Path) -> None:
    done = show("--schedule", "seq1f1b", *LAYOUT, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, second, _, caption, peaks = done.stdout.splitlines()
    assert first.startswith("rank 0 0F0.0 0F0.1 0F1.0             0B0.1 .....")
    assert second.startswith("rank 1       1F0.0")
    assert "bubble 20.00 %" in caption
    assert peaks.endswith("1.5, 1")


def test_csv_can_be_shown_again(tmp_path: Path) -> None:
    written = show("--schedule", "seq1f1b-zb", *LAYOUT, "--format", "csv", cwd=tmp_path)
    assert written.stdout == plan_to_csv(make_plan("seq1f1b-zb", stages=2, microbatches=2, chunks=2))
    (tmp_path / "plan.csv").write_text(written.stdout)
    again = show("--schedule", "plan.csv", "--format", "csv", cwd=tmp_path)
    assert again.stdout == written.stdout
    with_counts = show("--schedule", "plan.csv", *LAYOUT, "--format", "csv", cwd=tmp_path)
    assert with_counts.stdout == written.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--schedule", "seq1fb", *LAYOUT), "did you mean seq1f1b?"),
        (("--schedule", "1f1b", *LAYOUT), "use seq1f1b, or 1 chunk"),
        (("--schedule", "seq1f1b", *LAYOUT, "--virtual-stages", "2"), "use seq1f1b-interleaved"),
        (("--schedule", "seq1f1b", "--stages", "0", *LAYOUT[2:]), "0 stages cannot be scheduled"),
        (("--schedule", "seq1f1b", "--stages", "2"), "needs --microbatches, --chunks as well"),
        (("--schedule", "seq1f1b", *LAYOUT, "--stages", "two"), "invalid int value: 'two'"),
        (("--schedule", "seq1f1b", *LAYOUT, "--format", "xml"), "invalid choice: 'xml'"),
        (("--schedule", "seq1f1b", *LAYOUT, "--stage", "2"), "--stage"),
        (("--schedule", "absent.csv"), "cannot read plan file absent.csv"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = show(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_broken_plan_file_is_refused_with_line_and_drawing(tmp_path: Path) -> None:
    (tmp_path / "plan.csv").write_text("0F0.0,0F0.1,0B0.0,0B0.1\n1F0.0,1F0.1,1B0.1,1B0.0\n")
    done = show("--schedule", "plan.csv", cwd=tmp_path)
    assert done.returncode == 2
    first, *drawing = done.stderr.splitlines()
    assert "line 1: " in first
    assert "0B0.0: it needs 0B0.1" in first
    assert len(drawing) == 2
    assert ">0B0.0<" in drawing[0]


def test_counts_that_disagree_with_the_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.csv").write_text("0F0.0,0B0.0\n")
    done = show("--schedule", "plan.csv", "--stages", "2", cwd=tmp_path)
    assert done.returncode == 2
    assert "--stages 2 disagrees with plan file plan.csv, which has 1" in done.stderr
