"""tools/inspect_data.py: what a pair holds, and whether it is whole."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from megatron.seq1f1b.data import build_tokenizer
from tests.cli.tools import run_script
from tests.data.corpora import END, MERGE_FILE, VOCAB_FILE, write_pair

BPE_FLAGS = ["--tokenizer-type", "GPT2BPETokenizer", "--vocab", VOCAB_FILE, "--merge-file", MERGE_FILE]


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    tokenizer = build_tokenizer("GPT2BPETokenizer", vocab_file=VOCAB_FILE, merge_file=MERGE_FILE)
    texts = ["def first(): pass", "", "the last one"]
    return write_pair(tmp_path / "pair", [[*tokenizer.tokenize(text), END] if text else [] for text in texts])


def inspect(*words: object) -> subprocess.CompletedProcess[str]:
    return run_script("tools/inspect_data.py", *words)


def test_shows_counts_and_decoded_documents(prefix: str) -> None:
    run = inspect(f"{prefix}.bin", *BPE_FLAGS, "--verify")
    assert run.returncode == 0, run.stderr
    assert "documents  3 (1 without tokens)" in run.stdout
    assert "'def first(): pass<|endoftext|>'" in run.stdout
    assert "'the last one<|endoftext|>'" in run.stdout
    assert "every id below 1000" in run.stdout


def test_histogram_counts_each_document_once(tmp_path: Path) -> None:
    lengths = [1, 2, 3, 4, 7, 8]
    run = inspect(write_pair(tmp_path / "pair", [[5] * length for length in lengths]), "--samples", "0")
    rows = [line.split() for line in run.stdout.splitlines() if " to " in line]
    assert [(row[0], row[2], row[3]) for row in rows] == [
        ("1", "1", "1"),
        ("2", "3", "2"),
        ("4", "7", "2"),
        ("8", "15", "1"),
    ]


def test_ids_beyond_the_vocabulary_fail_verification(tmp_path: Path) -> None:
    prefix = write_pair(tmp_path / "pair", [[5, 1000]])
    assert inspect(prefix, "--verify").returncode == 0
    run = inspect(prefix, "--verify", *BPE_FLAGS)
    assert run.returncode == 2
    assert "token 1 has id 1000, outside the vocabulary of 1000 ids" in run.stderr


def test_missing_pair(tmp_path: Path) -> None:
    run = inspect(tmp_path / "none")
    assert run.returncode == 2
    assert "none.idx cannot be read" in run.stderr
    assert "Traceback" not in run.stderr
