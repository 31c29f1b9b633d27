"""Small inputs that several tests prepare: JSON lines, a vocabulary, a pair of files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from megatron.seq1f1b.data.pair_writer import PairWriter

BPE = Path(__file__).with_name("bpe")
VOCAB_FILE = BPE / "vocab.json"
MERGE_FILE = BPE / "merges.txt"
VOCAB_SIZE = 1000
"""A byte-level BPE trained on Python source by tools/train_tokenizer.py."""
END = 0
"""Its <|endoftext|>."""

VECTOR_BIN = "05000600070050c4010050c4"
VECTOR_IDX = (
    "4d4d4944494458000001000000000000000802000000000000000300000000000000040000000200000000000000"
    "000000000800000000000000000000000000000001000000000000000200000000000000"
)
"""Documents [5, 6, 7, 50256] and [1, 50256] as uint16, as Megatron writes them."""


def write_json_lines(path: Path, records: Iterable[object]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def write_pair(prefix: Path, documents: Sequence[Sequence[int]], *, dtype: str = "<u2") -> str:
    writer = PairWriter(prefix, dtype=np.dtype(dtype))
    for document in documents:
        tokens = np.array(document, dtype=dtype)
        lengths = np.array([len(document)] if len(document) else [], dtype=np.int64)
        writer.add(tokens, lengths, np.array([len(lengths)]))
    writer.finish()
    writer.publish()
    return str(prefix)


def random_documents(*, num_documents: int, vocab_size: int, eod: int, seed: int = 0) -> list[list[int]]:
    """Documents of 1 to 40 ids with the end-of-document id last."""
    random = np.random.default_rng(seed)
    lengths = random.integers(0, 40, size=num_documents)
    return [[*random.integers(eod + 1, vocab_size, size=length).tolist(), eod] for length in lengths]
