"""The pair of files, byte for byte, and as Megatron-Core reads it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from megatron.core.datasets.indexed_dataset import IndexedDataset

from megatron.seq1f1b.data.indexed import IndexedFiles, token_dtype
from megatron.seq1f1b.data.pair_writer import PairWriter
from megatron.seq1f1b.errors import DataError
from tests.data.corpora import VECTOR_BIN, VECTOR_IDX, random_documents, write_pair


def test_bytes_of_the_published_vector(tmp_path: Path) -> None:
    write_pair(tmp_path / "pair", [[5, 6, 7, 50256], [1, 50256]])
    assert (tmp_path / "pair.bin").read_bytes().hex() == VECTOR_BIN
    assert (tmp_path / "pair.idx").read_bytes().hex() == VECTOR_IDX


@pytest.mark.parametrize(
    ("vocab_size", "name"), [(2, "uint16"), (65499, "uint16"), (65500, "int32"), (200_000, "int32")]
)
def test_type_of_ids_is_the_one_megatron_chooses(vocab_size: int, name: str) -> None:
    assert token_dtype(vocab_size).name == name


@pytest.mark.parametrize("dtype", ["<u2", "<i4"])
def test_megatron_core_reads_what_is_written(tmp_path: Path, dtype: str) -> None:
    documents = random_documents(num_documents=50, vocab_size=1000, eod=0)
    core = IndexedDataset(write_pair(tmp_path / "pair", documents, dtype=dtype))
    assert [core[index].tolist() for index in range(len(core))] == documents
    assert core.document_indices.tolist() == list(range(51))


def test_empty_documents_repeat_the_document_index(tmp_path: Path) -> None:
    prefix = write_pair(tmp_path / "pair", [[], [3, 0], [], [], [4, 0], []])
    files = IndexedFiles(prefix)
    assert files.documents.tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert [files.document(index).tolist() for index in range(6)] == [[], [3, 0], [], [], [4, 0], []]
    assert IndexedDataset(prefix).document_indices.tolist() == [0, 0, 1, 1, 1, 2, 2]


def test_index_is_the_same_whatever_the_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = random_documents(num_documents=50, vocab_size=1000, eod=0)
    write_pair(tmp_path / "whole", documents)
    monkeypatch.setattr("megatron.seq1f1b.data.pair_writer._BLOCK", 7)
    write_pair(tmp_path / "blocks", documents)
    assert (tmp_path / "whole.idx").read_bytes() == (tmp_path / "blocks.idx").read_bytes()


def test_nothing_has_its_name_before_it_is_published(tmp_path: Path) -> None:
    writer = PairWriter(tmp_path / "pair", dtype=np.dtype("<u2"))
    writer.add(np.array([1], dtype="<u2"), np.array([1]), np.array([1]))
    writer.finish()
    assert not (tmp_path / "pair.bin").exists()
    assert not (tmp_path / "pair.idx").exists()
    writer.discard()
    assert list(tmp_path.iterdir()) == []


def test_sequence_too_long_for_the_format_is_refused(tmp_path: Path) -> None:
    writer = PairWriter(tmp_path / "pair", dtype=np.dtype("<u2"))
    with pytest.raises(DataError, match="2147483648 tokens"):
        writer.add(np.zeros(1, dtype="<u2"), np.array([2**31]), np.array([1]))
    writer.discard()


def test_output_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        PairWriter(tmp_path / "file" / "pair", dtype=np.dtype("<u2"))
