"""tools/make_sample_corpus.py: real text from the interpreter's own sources."""

from __future__ import annotations

import ast
import json
import subprocess
from pathlib import Path

from tests.cli.tools import run_script


def make(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return run_script("tools/make_sample_corpus.py", "--output", "corpus.jsonl", *words, cwd=folder)


def test_corpus_is_python_source_and_always_the_same(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    first, second = make(tmp_path, "--megabytes", "0.5"), make(tmp_path / "again", "--megabytes", "0.5")
    assert first.returncode == second.returncode == 0, first.stderr
    raw = (tmp_path / "corpus.jsonl").read_bytes()
    assert raw == (tmp_path / "again" / "corpus.jsonl").read_bytes()
    texts = [json.loads(line)["content"] for line in raw.splitlines()]
    assert sum(len(text.encode()) for text in texts) >= 500_000
    for text in texts[:5]:
        ast.parse(text)
    assert f"{len(texts)} documents" in first.stdout
    assert "sample corpus" in first.stderr


def test_key_is_the_one_asked_for(tmp_path: Path) -> None:
    assert make(tmp_path, "--megabytes", "0.01", "--json-key", "text").returncode == 0
    assert set(json.loads((tmp_path / "corpus.jsonl").read_text().splitlines()[0])) == {"text"}


def test_size_must_be_above_zero(tmp_path: Path) -> None:
    run = make(tmp_path, "--megabytes", "0")
    assert run.returncode == 2
    assert "0 is not above 0" in run.stderr


def test_place_that_cannot_be_written(tmp_path: Path) -> None:
    run = make(tmp_path, "--megabytes", "0.01", "--output", "/dev/null/corpus.jsonl")
    assert run.returncode == 2
    assert "make_sample_corpus.py: /dev/null/corpus.jsonl cannot be written" in run.stderr
    assert "Traceback" not in run.stderr
