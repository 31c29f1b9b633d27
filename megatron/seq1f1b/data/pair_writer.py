"""Writes a `.bin`/`.idx` pair from a stream of documents in bounded memory.

Lengths and sequence counts are spilled to files beside the tokens, and the index is assembled from
them at the end: memory does not grow with the number of documents. Everything carries partial names
until `publish`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np

from megatron.seq1f1b.data.files import explain_write_errors, flush_to_disk, partial_path
from megatron.seq1f1b.data.indexed import IndexHeader, bin_path, idx_path
from megatron.seq1f1b.errors import DataError

_BLOCK = 1 << 20
"""Entries per read when the index is assembled."""
_LONGEST = np.iinfo(np.int32).max


class PairWriter:
    """One pair of files in the making."""

    def __init__(self, prefix: Path, *, dtype: np.dtype) -> None:
        self.prefix = prefix
        self.num_documents = 0
        self.num_sequences = 0
        self.num_tokens = 0
        self._dtype = dtype
        self._bin = partial_path(bin_path(prefix))
        self._idx = partial_path(idx_path(prefix))
        self._lengths = Path(f"{prefix}.lengths.partial")
        self._counts = Path(f"{prefix}.counts.partial")
        self._streams: list[BinaryIO] = []
        try:
            with explain_write_errors(prefix):
                prefix.parent.mkdir(parents=True, exist_ok=True)
                for path in (self._bin, self._lengths, self._counts):
                    self._streams.append(path.open("wb"))
        except DataError:
            self.discard()
            raise

    def add(self, tokens: np.ndarray, lengths: np.ndarray, sequences_per_document: np.ndarray) -> None:
        """Append documents.

        Args:
            tokens: ids of all of them, in the type of the pair.
            lengths: ids of each sequence; they sum to the number of tokens.
            sequences_per_document: 0 for a document without tokens.
        """
        assert tokens.dtype == self._dtype
        if lengths.size and int(lengths.max()) > _LONGEST:
            raise DataError(
                f"a document has {int(lengths.max())} tokens; the format holds at most {_LONGEST}"
            )
        with explain_write_errors(self.prefix):
            columns = (tokens, lengths.astype("<i4"), sequences_per_document.astype("<i8"))
            for stream, column in zip(self._streams, columns, strict=True):
                stream.write(column.data)
        self.num_tokens += tokens.size
        self.num_sequences += lengths.size
        self.num_documents += sequences_per_document.size

    def finish(self) -> None:
        """Complete both files under their partial names."""
        with explain_write_errors(self.prefix):
            for stream in self._streams:
                flush_to_disk(stream)
                stream.close()
            with self._idx.open("wb") as stream:
                self._write_index(stream)
                flush_to_disk(stream)

    def publish(self) -> None:
        """Give both files their names; until the second has it, the pair has no index."""
        with explain_write_errors(self.prefix):
            idx_path(self.prefix).unlink(missing_ok=True)
            self._bin.replace(bin_path(self.prefix))
            self._idx.replace(idx_path(self.prefix))
        self.discard()

    def discard(self) -> None:
        """Remove whatever still has a partial name."""
        for stream in self._streams:
            with suppress(OSError):  # a full disk fails once more on what is still buffered
                stream.close()
        for path in (self._bin, self._idx, self._lengths, self._counts):
            with suppress(OSError):
                path.unlink()

    def _write_index(self, stream: BinaryIO) -> None:
        header = IndexHeader(
            dtype=self._dtype,
            num_sequences=self.num_sequences,
            num_document_entries=self.num_documents + 1,
        )
        stream.write(header.packed())
        for lengths in _blocks(self._lengths, "<i4"):
            stream.write(lengths.data)
        offset = 0
        for lengths in _blocks(self._lengths, "<i4"):
            ends = offset + np.cumsum(lengths, dtype="<i8") * self._dtype.itemsize
            stream.write((ends - lengths.astype("<i8") * self._dtype.itemsize).data)
            offset = int(ends[-1])
        stream.write(np.zeros(1, dtype="<i8").data)
        sequences = 0
        for counts in _blocks(self._counts, "<i8"):
            ends = sequences + np.cumsum(counts, dtype="<i8")
            stream.write(ends.data)
            sequences = int(ends[-1])


def _blocks(path: Path, dtype: str) -> Iterator[np.ndarray]:
    with path.open("rb") as stream:
        while (block := np.fromfile(stream, dtype=dtype, count=_BLOCK)).size:
            yield block
