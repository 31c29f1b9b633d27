"""tools/train_tokenizer.py: a byte-level BPE that Hugging Face and this repository read alike."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from tokenizers import ByteLevelBPETokenizer

from megatron.seq1f1b.data import build_tokenizer
from tests.cli.tools import run_script
from tests.data.corpora import write_json_lines

TEXTS = ["def f(x):\n    return x  # naïve 日本\n" * 3, "the theory of the other\n" * 5]


def train(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    flags = ("--input", "in.jsonl", "--output-dir", "bpe")
    return run_script("tools/train_tokenizer.py", *flags, *words, cwd=folder)


def test_files_are_gpt2s(tmp_path: Path) -> None:
    write_json_lines(tmp_path / "in.jsonl", [{"content": text} for text in TEXTS])
    run = train(tmp_path, "--json-key", "content", "--vocab-size", "290")
    assert run.returncode == 0, run.stderr
    vocab_file, merge_file = tmp_path / "bpe" / "vocab.json", tmp_path / "bpe" / "merges.txt"
    ours = build_tokenizer("GPT2BPETokenizer", vocab_file=vocab_file, merge_file=merge_file)
    assert ours.vocab_size == 290
    assert json.loads(vocab_file.read_text())["<|endoftext|>"] == ours.eod
    theirs = ByteLevelBPETokenizer(str(vocab_file), str(merge_file))
    for text in [*TEXTS, "unseen \x00 🙂"]:
        assert ours.tokenize(text) == theirs.encode(text).ids
        assert ours.detokenize(ours.tokenize(text)) == text


def test_text_with_too_few_pairs_is_told(tmp_path: Path) -> None:
    write_json_lines(tmp_path / "in.jsonl", [{"content": "ab"}])
    run = train(tmp_path, "--vocab-size", "300")
    assert run.returncode == 0
    assert "258 ids" in run.stdout
    assert "300 ids were asked for" in run.stdout


@pytest.mark.parametrize(
    ("content", "words", "message"),
    [
        ('{"content": "a"}\n', ["--vocab-size", "256"], "--vocab-size 256 cannot hold 256 bytes"),
        ("", [], "holds no lines"),
        ('{"content": "a"}\n{"text": "a"}\n', [], "in.jsonl, line 2: no key 'content'"),
        ('{"content": "a"}\n', ["--input", "none.jsonl"], "none.jsonl: no such file"),
    ],
)
def test_refusals(tmp_path: Path, content: str, words: list[str], message: str) -> None:
    (tmp_path / "in.jsonl").write_text(content)
    run = train(tmp_path, *words)
    assert run.returncode == 2
    assert message in run.stderr
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "bpe").exists()
