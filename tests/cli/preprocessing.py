"""What the tests of tools/preprocess_data.py share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from megatron.seq1f1b.data.indexed import IndexedFiles
from tests.data.corpora import MERGE_FILE, VOCAB_FILE

TOOL = Path(__file__).parents[2] / "tools" / "preprocess_data.py"
BPE_FLAGS = ["--tokenizer-type", "GPT2BPETokenizer", "--vocab", str(VOCAB_FILE)]
BPE_FLAGS += ["--merge-file", str(MERGE_FILE)]
NULL_FLAGS = ["--tokenizer-type", "NullTokenizer", "--vocab-size", "1000"]

Run = Callable[..., tuple[int, str]]
"""Runs the tool with these words: its status and all that it printed."""


def documents_of(prefix: Path | str) -> list[list[int]]:
    files = IndexedFiles(prefix)
    return [files.document(index).tolist() for index in range(files.num_documents)]
