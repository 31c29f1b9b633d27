from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from megatron.seq1f1b.schedule import make_plan, plan_to_csv
from tests.cli.tools import run_script

MODEL = ("--model", "7b", "--seq-length", "8192")
LAYOUT = ("--stages", "2", "--microbatches", "2", "--chunks", "2")


def show(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the tool from a foreign directory, without the repository on the path."""
    return run_script("tools/show_schedule.py", *arguments, cwd=cwd)


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
        (LAYOUT, "one of the arguments --schedule --compare is required"),
        (("--compare", "seq1f1b,seq1fb", *LAYOUT), "did you mean seq1f1b?"),
        (("--compare", "seq1f1b,1f1b", *LAYOUT, "--format", "trace"), "--format trace holds one plan"),
        (("--compare", "seq1f1b,seq1f1b", *LAYOUT), "--compare names seq1f1b twice"),
        (
            ("--schedule", "seq1f1b", *LAYOUT, "--format", "csv", "--stage-memory"),
            "no place for --stage-memory",
        ),
        (
            ("--schedule", "seq1f1b", *LAYOUT, *MODEL, "--tensor-parallel", "0"),
            "--tensor-parallel 0 processes",
        ),
        (("--schedule", "seq1f1b", *LAYOUT, "--cost", "1"), "--cost 1 is not two numbers"),
        (("--schedule", "seq1f1b", *LAYOUT, "--cost", "0,2"), "--cost 0,2 must be positive"),
        (("--schedule", "seq1f1b", *LAYOUT, "--device", "a100"), "--device means nothing without --model"),
        (("--schedule", "seq1f1b", *LAYOUT, *MODEL, "--cost", "1,2"), "give one of them"),
        (("--schedule", "seq1f1b", *LAYOUT, "--model", "7b"), "--model needs --seq-length"),
        (("--schedule", "seq1f1b", *LAYOUT, *MODEL, "--device", "b200"), "there is no device profile b200"),
        (("--schedule", "seq1f1b", *LAYOUT, *MODEL, "--model", "llama7b"), "did you mean llama2-7b?"),
        (
            ("--schedule", "seq1f1b", *LAYOUT, *MODEL, "--stages", "3"),
            "32 layers do not divide over 3 stages of 1 model part; use 2 or 4 stages",
        ),
        (
            ("--schedule", "seq1f1b", *LAYOUT, *MODEL, "--tensor-parallel", "3"),
            "cannot share the model's 32 heads and 32 groups of keys and values evenly; use 2 or 4",
        ),
        (
            (
                "--schedule",
                "seq1f1b",
                *LAYOUT,
                "--model",
                "7b",
                "--seq-length",
                "4097",
                "--strategy",
                "average",
            ),
            "--chunks 2 cannot divide --seq-length 4097",
        ),
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


def test_compared_schedules_do_the_same_work(tmp_path: Path) -> None:
    done = show("--compare", "1f1b,seq1f1b", *LAYOUT, "--format", "json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    compared = json.loads(done.stdout)
    busy = {
        name: shown["makespan_seconds"] * (1 - shown["bubble_fraction"]) for name, shown in compared.items()
    }
    assert busy["1f1b"] == pytest.approx(busy["seq1f1b"])
    assert compared["seq1f1b"]["makespan_seconds"] < compared["1f1b"]["makespan_seconds"]


def test_costs_can_be_given(tmp_path: Path) -> None:
    done = show("--schedule", "seq1f1b", *LAYOUT, "--format", "json", "--cost", "2,4", cwd=tmp_path)
    assert json.loads(done.stdout)["makespan_seconds"] == 30.0


def test_a_model_on_a_device_has_seconds_and_bytes(tmp_path: Path) -> None:
    done = show("--schedule", "seq1f1b", *LAYOUT, *MODEL, "--stage-memory", "--format", "json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert 0.1 < shown["makespan_seconds"] < 10
    assert len(shown["peak_bytes_per_stage"]) == 2
    assert shown["peak_kv_caches_per_stage"] == [2, 2]
    assert shown["actions"][1][0] == "1F0.0"


def test_stage_memory_is_a_table(tmp_path: Path) -> None:
    done = show("--schedule", "seq1f1b", *LAYOUT, "--stage-memory", cwd=tmp_path)
    assert done.stdout.splitlines()[-2].split() == ["0", "1.500", "2", "1"]


@pytest.mark.parametrize(("form", "start"), [("svg", "<svg"), ("html", "<!doctype html>"), ("trace", "{")])
def test_pictures_are_written_to_files(form: str, start: str, tmp_path: Path) -> None:
    done = show("--schedule", "seq1f1b", *LAYOUT, "--format", form, "--output", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert (tmp_path / "out").read_text().startswith(start)


def test_a_device_file_with_missing_fields_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{"name": "mine", "speed": 1}')
    done = show("--schedule", "seq1f1b", *LAYOUT, *MODEL, "--device", "mine.json", cwd=tmp_path)
    assert done.returncode == 2
    assert "device profile mine.json lacks attention_backward_efficiency" in done.stderr
    assert "has unknown speed" in done.stderr
    assert len(done.stderr.splitlines()) == 1
