"""What is refused before processes join, and what the messages say."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from megatron.seq1f1b.data import DataSettings, build_tokenizer, check_data_files, check_data_settings
from megatron.seq1f1b.data.indexed import IndexedFiles
from megatron.seq1f1b.data.inspection import verify_ids, verify_index
from megatron.seq1f1b.errors import ConfigurationError, DataError
from tests.data.corpora import random_documents, write_pair

Damage = Callable[[Path, Path], object]
DOCUMENTS = random_documents(num_documents=20, vocab_size=100, eod=0)


def patch(path: Path, offset: int, raw: bytes) -> None:
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(raw)


def cut(path: Path, num_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:-num_bytes])


DAMAGES: dict[str, tuple[Damage, str]] = {
    "no index": (lambda idx, _: idx.unlink(), r"\.idx cannot be read \(No such file"),
    "no tokens": (lambda _, bin_: bin_.unlink(), r"\.bin cannot be read"),
    "empty index": (lambda idx, _: idx.write_bytes(b""), "begins with b''"),
    "magic": (lambda idx, _: patch(idx, 0, b"TNTIDX"), "begins with b'TNTIDX"),
    "version": (lambda idx, _: patch(idx, 9, struct.pack("<Q", 2)), "has version 2"),
    "dtype": (lambda idx, _: patch(idx, 17, b"\x63"), "dtype code 99"),
    "header cut": (lambda idx, _: idx.write_bytes(idx.read_bytes()[:20]), "inside its header"),
    "index cut": (lambda idx, _: cut(idx, 8), "truncated"),
    "index longer": (lambda idx, _: idx.write_bytes(idx.read_bytes() + b"x"), "truncated or overwritten"),
    "tokens cut": (lambda _, bin_: cut(bin_, 2), "shorter than"),
    "tokens longer": (lambda _, bin_: bin_.write_bytes(bin_.read_bytes() + b"xx"), "longer than"),
    "floating ids": (lambda idx, _: patch(idx, 17, b"\x07"), "shorter than|must be integers"),
    "document index": (lambda idx, _: cut_last_document(idx), "document index"),
}


def cut_last_document(idx: Path) -> None:
    patch(idx, idx.stat().st_size - 8, struct.pack("<q", 7))


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_pair_is_refused(tmp_path: Path, name: str) -> None:
    damage, message = DAMAGES[name]
    prefix = write_pair(tmp_path / "pair", DOCUMENTS)
    check_data_files([prefix], 100)
    damage(tmp_path / "pair.idx", tmp_path / "pair.bin")
    with pytest.raises(DataError, match=message):
        check_data_files([prefix], 100)


@pytest.mark.parametrize("place", [0, 500_000, 999_999])
def test_id_beyond_the_vocabulary_is_named_with_its_place(tmp_path: Path, place: int) -> None:
    ids = np.zeros(1_000_000, dtype=np.int64)
    ids[place] = 50
    prefix = write_pair(tmp_path / "pair", [ids.tolist()])
    check_data_files([prefix], 51)
    with pytest.raises(DataError, match=rf"token {place} has id 50, outside the vocabulary of 50 ids"):
        check_data_files([prefix], 50)


def test_negative_id_is_refused(tmp_path: Path) -> None:
    prefix = write_pair(tmp_path / "pair", [[1, -2, 3]], dtype="<i4")
    with pytest.raises(DataError, match="token 1 has id -2"):
        check_data_files([prefix], 50)


def test_pair_without_tokens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no tokens \(2 documents, all empty\)"):
        check_data_files([write_pair(tmp_path / "pair", [[], []])], 50)


def test_checking_imports_neither_torch_nor_megatron_core() -> None:
    code = (
        "import sys; from megatron.seq1f1b.data import build_tokenizer, check_data_files, parse_blend; "
        "build_tokenizer('NullTokenizer', vocab_size=4); "
        "assert not {'torch', 'megatron.core'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_verify_finds_a_gap_between_sequences(tmp_path: Path) -> None:
    prefix = write_pair(tmp_path / "pair", DOCUMENTS)
    verify_index(IndexedFiles(prefix))
    offset_of_third = 34 + 4 * len(DOCUMENTS) + 8 * 2
    patch(tmp_path / "pair.idx", offset_of_third, struct.pack("<q", 2))
    with pytest.raises(DataError, match="sequence 2 is said to have"):
        verify_index(IndexedFiles(prefix))


def test_verify_finds_a_document_index_that_steps_back(tmp_path: Path) -> None:
    prefix = write_pair(tmp_path / "pair", DOCUMENTS)
    place_of_third = 34 + 12 * len(DOCUMENTS) + 8 * 2
    patch(tmp_path / "pair.idx", place_of_third, struct.pack("<q", 19))
    with pytest.raises(DataError, match="steps back after document 2"):
        verify_index(IndexedFiles(prefix))


def test_verify_walks_every_id(tmp_path: Path) -> None:
    ids = np.ones(3_000_000, dtype=np.int64)
    ids[1_260_000] = 99  # between the places that the check at start looks at
    files = IndexedFiles(write_pair(tmp_path / "pair", [ids.tolist()]))
    check_data_files([files.prefix], 50)
    with pytest.raises(DataError, match="token 1260000 has id 99"):
        verify_ids(files, vocab_size=50, advance=lambda _: None)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({}, "exactly one of"),
        ({"data_path": ("P",), "train_data_path": ("P",)}, "2 of these are given"),
        ({"data_path": ("P",), "mock_data": True}, "2 of these are given"),
        ({"data_path": ("1", "P", "Q")}, "found 1 weights"),
        ({"data_path": ("1", "P", "2")}, "found 2 weights"),
        ({"data_path": ("0", "P", "2", "Q")}, "above 0"),
        ({"data_path": ("inf", "P", "2", "Q")}, "above 0"),
        ({"data_path": ("P",), "split": "98,x"}, "--split 98,x must be"),
        ({"data_path": ("P",), "split": "0,0,0"}, "not all 0"),
        ({"data_path": ("P",), "split": "1,1,1,1"}, "one to three"),
        ({"data_path": ("P",), "split": "-1,2"}, "from 0 up"),
        ({"train_data_path": ("P",)}, "--valid-data-path is not given"),
        ({"data_args_path": "nowhere"}, "--data-args-path nowhere cannot be read"),
    ],
)
def test_settings_that_contradict_themselves(
    tmp_path: Path, overrides: dict[str, object], message: str
) -> None:
    prefix = write_pair(tmp_path / "pair", DOCUMENTS)
    named = {
        key: tuple(prefix if word in "PQ" else word for word in value) if isinstance(value, tuple) else value
        for key, value in overrides.items()
    }
    settings = DataSettings(
        tokenizer=build_tokenizer("NullTokenizer", vocab_size=100),
        seq_length=8,
        **named,  # type: ignore[arg-type]
    )
    with pytest.raises((ConfigurationError, DataError), match=message):
        check_data_settings(settings, train_samples=4, valid_samples=1)


def test_split_without_text_is_refused(tmp_path: Path) -> None:
    settings = DataSettings(
        tokenizer=build_tokenizer("NullTokenizer", vocab_size=100),
        seq_length=8,
        data_path=(write_pair(tmp_path / "pair", DOCUMENTS[:10]),),
        split="99,1",
    )
    check_data_settings(settings, train_samples=4)
    with pytest.raises(DataError, match=r"--split 99,1 leaves no text of .* \(10 documents .* for valid"):
        check_data_settings(settings, train_samples=4, valid_samples=1)


def test_words_of_a_blend_file_are_those_of_data_path(tmp_path: Path) -> None:
    prefix = write_pair(tmp_path / "pair", DOCUMENTS)
    (tmp_path / "blend.txt").write_text(f"0.3 {prefix}\n0.7 {prefix}\n")
    settings = DataSettings(
        tokenizer=build_tokenizer("NullTokenizer", vocab_size=100),
        seq_length=8,
        data_args_path=str(tmp_path / "blend.txt"),
    )
    check_data_settings(settings, train_samples=4)
