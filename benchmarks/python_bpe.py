"""The yardstick of benchmarks/preprocess.py: GPT-2's BPE as a plain loop in Python.

One document at a time, each word mapped to letters, merged by a table of ranks with a cache of merged
words, and looked up token by token: GPT-2's published way, which Megatron's tool used. It writes its
own files, so that equal bytes mean something.
"""

from __future__ import annotations

import json
import multiprocessing
import struct
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np

PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_tokenizer: PythonBPE | None = None
_json_key = ""


class PythonBPE:
    """Byte-level BPE, word by word."""

    def __init__(self, vocab_file: Path, merge_file: Path) -> None:
        import regex  # type: ignore[import-untyped,unused-ignore]

        self.ids: dict[str, int] = json.loads(vocab_file.read_text(encoding="utf-8"))
        lines = merge_file.read_text(encoding="utf-8").split("\n")
        pairs = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
        self._ranks = {pair: rank for rank, pair in enumerate(pairs)}
        self._words = regex.compile(PATTERN)
        self._letters = _letters()
        self._cache: dict[str, list[str]] = {}

    def encode(self, text: str) -> list[int]:
        """The ids of `text`."""
        ids: list[int] = []
        for word in self._words.findall(text):
            letters = "".join(self._letters[byte] for byte in word.encode())
            if letters not in self._cache:
                self._cache[letters] = self._merged(letters)
            ids.extend(self.ids[token] for token in self._cache[letters])
        return ids

    def _merged(self, letters: str) -> list[str]:
        """`letters` after every merge, lowest rank first."""
        tokens = list(letters)
        while len(tokens) > 1:
            best = min(pairwise(tokens), key=lambda pair: self._ranks.get(pair, float("inf")))
            if best not in self._ranks:
                break
            merged, index = [], 0
            while index < len(tokens):
                if tuple(tokens[index : index + 2]) == best:
                    merged.append(best[0] + best[1])
                    index += 2
                else:
                    merged.append(tokens[index])
                    index += 1
            tokens = merged
        return tokens


def prepare(
    corpus: Path, prefix: Path, *, json_key: str, vocab_file: Path, merge_file: Path, workers: int
) -> None:
    """Write `<prefix>.bin` and `<prefix>.idx` for the documents of `corpus`."""
    lengths: list[int] = []
    context = multiprocessing.get_context("fork")
    with (
        context.Pool(workers, initializer=_start, initargs=(vocab_file, merge_file, json_key)) as pool,
        corpus.open(encoding="utf-8") as lines,
        Path(f"{prefix}.bin").open("wb") as stream,
    ):
        for ids in pool.imap(_encode_line, lines, chunksize=25):
            stream.write(np.array(ids, dtype="<u2").tobytes())
            lengths.append(len(ids))
    offsets = [0, *accumulate(2 * length for length in lengths)][:-1]
    index = struct.pack("<9sQBQQ", b"MMIDIDX\0\0", 1, 8, len(lengths), len(lengths) + 1)
    index += np.array(lengths, dtype="<i4").tobytes() + np.array(offsets, dtype="<i8").tobytes()
    Path(f"{prefix}.idx").write_bytes(index + np.arange(len(lengths) + 1, dtype="<i8").tobytes())


def _start(vocab_file: Path, merge_file: Path, json_key: str) -> None:
    global _tokenizer, _json_key
    _tokenizer, _json_key = PythonBPE(vocab_file, merge_file), json_key


def _encode_line(line: str) -> list[int]:
    assert _tokenizer is not None
    return [*_tokenizer.encode(json.loads(line)[_json_key]), _tokenizer.ids["<|endoftext|>"]]


def _letters() -> list[str]:
    """GPT-2's printable letter of each byte."""
    kept = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), 256)}
    spare = iter(range(256, 512))
    return [chr(byte) if byte in kept else chr(next(spare)) for byte in range(256)]
