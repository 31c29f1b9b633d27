"""The `.bin`/`.idx` pair of Megatron's memory-mapped datasets.

    .bin   token ids of all documents, one after another, little endian
    .idx   magic 9 B | version u64 | dtype code u8 | sequences n u64 | entries d u64
           lengths int32[n] | byte offsets int64[n] | document index int64[d]

The document index holds d = documents + 1 values: document i is sequences [index[i], index[i+1]).
A sequence is a document, or a sentence of one. Read with numpy alone: startup checks must not wait
for megatron.core.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megatron.seq1f1b.errors import DataError

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")
DTYPE_OF_CODE: dict[int, np.dtype] = {
    code: np.dtype(name).newbyteorder("<")
    for code, name in {
        1: "uint8",
        2: "int8",
        3: "int16",
        4: "int32",
        5: "int64",
        6: "float64",
        7: "float32",
        8: "uint16",
    }.items()
}
CODE_OF_DTYPE = {dtype: code for code, dtype in DTYPE_OF_CODE.items()}
_UINT16_VOCABULARY = 65500
"""Megatron writes uint16 below this many ids, int32 from it on."""


def token_dtype(vocab_size: int) -> np.dtype:
    """The type in which Megatron stores ids of a vocabulary of this size."""
    return np.dtype("<u2") if vocab_size < _UINT16_VOCABULARY else np.dtype("<i4")


def bin_path(prefix: str | Path) -> Path:
    """The file of token ids."""
    return Path(f"{prefix}.bin")


def idx_path(prefix: str | Path) -> Path:
    """The file of lengths and offsets."""
    return Path(f"{prefix}.idx")


@dataclass(frozen=True, kw_only=True)
class IndexHeader:
    """The first 34 bytes of an `.idx`."""

    dtype: np.dtype
    num_sequences: int
    num_document_entries: int

    @property
    def num_bytes(self) -> int:
        """What an `.idx` with this header must measure."""
        return HEADER.size + 12 * self.num_sequences + 8 * self.num_document_entries

    def packed(self) -> bytes:
        """The header as it stands in the file."""
        code = CODE_OF_DTYPE[self.dtype]
        return HEADER.pack(MAGIC, VERSION, code, self.num_sequences, self.num_document_entries)


def read_header(path: Path) -> IndexHeader:
    """The header of the `.idx` at `path`.

    Raises:
        DataError: no such file, too short, or not what Megatron writes.
    """
    try:
        with path.open("rb") as stream:
            raw = stream.read(HEADER.size)
        size = path.stat().st_size
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}); give the prefix that "
            "tools/preprocess_data.py printed, without .bin or .idx"
        ) from error
    if not raw.startswith(MAGIC):
        raise DataError(
            f"{path} begins with {raw[:9]!r} where {MAGIC!r} is expected; it is no index of "
            "Megatron's mmap datasets: write it with tools/preprocess_data.py"
        )
    if len(raw) < HEADER.size:
        raise DataError(f"{path} ends after {size} bytes, inside its header of {HEADER.size}")
    _, version, code, num_sequences, num_document_entries = HEADER.unpack(raw)
    if version != VERSION:
        raise DataError(f"{path} has version {version}; only version {VERSION} is known")
    if code not in DTYPE_OF_CODE:
        raise DataError(f"{path} has dtype code {code}; known are {sorted(DTYPE_OF_CODE)}")
    return IndexHeader(
        dtype=DTYPE_OF_CODE[code],
        num_sequences=num_sequences,
        num_document_entries=num_document_entries,
    )


class IndexedFiles:
    """A read-only, memory-mapped view of one pair, checked for truncation when opened."""

    def __init__(self, prefix: str | Path) -> None:
        self.prefix = str(prefix)
        self.header = read_header(idx_path(prefix))
        index_bytes = idx_path(prefix).stat().st_size
        if index_bytes != self.header.num_bytes:
            raise DataError(
                f"{idx_path(prefix)} holds {index_bytes} bytes where its header says "
                f"{self.header.num_bytes}; it is truncated or overwritten, prepare the data again"
            )
        raw = np.memmap(idx_path(prefix), mode="r", dtype=np.uint8)
        n, start = self.header.num_sequences, HEADER.size
        self.lengths: np.ndarray = raw[start : start + 4 * n].view("<i4")
        self.offsets: np.ndarray = raw[start + 4 * n : start + 12 * n].view("<i8")
        self.documents: np.ndarray = raw[start + 12 * n :].view("<i8")
        if self.documents.size == 0 or int(self.documents[-1]) != n:
            raise DataError(
                f"{idx_path(prefix)}: its document index does not end at its {n} sequences; "
                "prepare the data again"
            )
        self.tokens = self._open_tokens()

    @property
    def num_documents(self) -> int:
        """Documents, empty ones included."""
        return self.header.num_document_entries - 1

    def _open_tokens(self) -> np.ndarray:
        """All ids of the `.bin`, once its size agrees with the index."""
        n, itemsize = self.header.num_sequences, self.header.dtype.itemsize
        needed = int(self.offsets[-1]) + int(self.lengths[-1]) * itemsize if n else 0
        path = bin_path(self.prefix)
        try:
            size = path.stat().st_size
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror}), though its .idx is there") from error
        if size != needed:
            state = "shorter" if size < needed else "longer"
            raise DataError(
                f"{path} holds {size} bytes, {state} than the {needed} that its .idx says; "
                "the two are not of one run or a copy was cut off: prepare or copy both again"
            )
        if size == 0:
            return np.empty(0, dtype=self.header.dtype)
        return np.memmap(path, mode="r", dtype=self.header.dtype)

    def document(self, index: int) -> np.ndarray:
        """The ids of one document."""
        first, last = int(self.documents[index]), int(self.documents[index + 1])
        if first == last:
            return np.empty(0, dtype=self.header.dtype)
        itemsize = self.header.dtype.itemsize
        start = int(self.offsets[first]) // itemsize
        stop = int(self.offsets[last - 1]) // itemsize + int(self.lengths[last - 1])
        return self.tokens[start:stop]
