"""The tool that compares two runs step by step."""

from __future__ import annotations

import json
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.cli.tools import run_script


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
    done = compare(tmp_path, f"a b {words}")
    assert done.returncode == status, done.stderr
    assert message in done.stdout


def compare(folder: Path, words: str) -> subprocess.CompletedProcess[str]:
    return run_script("tools/compare_losses.py", *words.split(), cwd=folder)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("a absent", "there is no absent/metrics.jsonl"),
        ("a", "a alone cannot be compared"),
        ("a later", "a (2 steps from 1 to 2) and later (1 steps from 7 to 7) have no step in common"),
        ("a torn", 'torn/metrics.jsonl, line 2 is not JSON: \'{"iteration": 2, "lm_\''),
        ("a empty", "empty/metrics.jsonl has no step with a lm_loss"),
        ("a a --metric mfu", "a/metrics.jsonl, line 1 has no 'mfu'; it has iteration, lm_loss"),
        ("a words", "words/metrics.jsonl, line 1: lm_loss is not a number"),
        ("a a --plot losses.jpg", "name a file that ends in .svg or .png"),
    ],
)
def test_what_cannot_be_compared_is_said(tmp_path: Path, words: str, message: str) -> None:
    write(tmp_path / "a", [4.0, 2.0])
    rows = {
        "later": '{"iteration": 7, "lm_loss": 1.0}\n',
        "torn": '{"iteration": 1, "lm_loss": 4.0}\n{"iteration": 2, "lm_',
        "empty": "",
        "words": '{"iteration": 1, "lm_loss": "low"}\n',
    }
    for name, text in rows.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text(text)
    done = compare(tmp_path, words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("compare_losses.py: ")
    assert message in done.stderr


def test_runs_of_different_lengths_are_compared_where_both_have_steps(tmp_path: Path) -> None:
    write(tmp_path / "a", [4.0, 2.0, 1.0])
    write(tmp_path / "b", [4.0, 2.0])
    done = compare(tmp_path, "a b --tolerance 0")
    assert done.returncode == 0
    assert "a has 3 steps from 1 to 3, b has 2 steps from 1 to 2" in done.stdout


def test_every_run_is_compared_with_the_first_and_drawn(tmp_path: Path) -> None:
    for name, losses in {"a": [4.0, 2.0], "b": [4.0, 2.0], "c": [4.0, 2.02]}.items():
        write(tmp_path / name, losses)
    done = compare(tmp_path, "a b c/metrics.jsonl --assert-equal --plot plots/losses.svg")
    assert done.returncode == 1
    assert "first difference at step 2: 2.0 and 2.02, 9.901e-03 relative" in done.stdout
    assert done.stdout.count("not equal") == 1
    root = ET.fromstring((tmp_path / "plots" / "losses.svg").read_text())
    texts = [each.text for each in root.iter() if each.text]
    assert "relative difference from a" in texts
    assert "b (equal to the first, to the last bit)" in texts
    lines = [each for each in root.iter() if each.tag.endswith("polyline")]
    assert [line[0].text for line in lines] == ["a", "b", "c/metrics.jsonl", "c/metrics.jsonl"]


def test_validations_can_be_compared(tmp_path: Path) -> None:
    for name, loss in (("a", 3.0), ("b", 3.3)):
        (tmp_path / name).mkdir()
        rows = [{"iteration": 1, "validation_loss": None}, {"iteration": 2, "validation_loss": loss}]
        (tmp_path / name / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = compare(tmp_path, "a b --metric validation_loss --tolerance 0.01")
    assert done.returncode == 1
    assert "1 steps in common (2 to 2)" in done.stdout
