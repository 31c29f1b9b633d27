"""What a prepared pair holds, and a walk over all of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from megatron.seq1f1b.data.checks import check_ids
from megatron.seq1f1b.data.indexed import IndexedFiles, bin_path, idx_path
from megatron.seq1f1b.errors import DataError

_BLOCK = 1 << 22
"""Entries looked at together."""
_BAR = 40


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Counts and the lengths of documents."""

    num_documents: int
    num_empty_documents: int
    num_sequences: int
    num_tokens: int
    mean: float
    percentiles: dict[int, int]
    """Percentile -> tokens of a document, empty ones not counted; 0 and 100 are the extremes."""
    histogram: list[tuple[int, int]]
    """(n, documents of n to 2n-1 tokens) for powers of two."""

    def lines(self) -> list[str]:
        """The statistics as text."""
        most = max((count for _, count in self.histogram), default=1)
        shown = ", ".join(f"p{percent} {value}" for percent, value in self.percentiles.items())
        return [
            f"documents  {self.num_documents} ({self.num_empty_documents} without tokens)",
            f"sequences  {self.num_sequences}",
            f"tokens     {self.num_tokens}",
            f"length     mean {self.mean:.1f}, {shown}",
            *(
                f"  {low:>9} to {2 * low - 1:<9} {count:>10} {'#' * -(-count * _BAR // most)}"
                for low, count in self.histogram
            ),
        ]


def document_lengths(files: IndexedFiles) -> np.ndarray:
    """Tokens of each document, empty ones included."""
    ends = np.concatenate(([0], np.cumsum(files.lengths, dtype=np.int64)))
    positions = ends[files.documents]
    return np.diff(positions)


def statistics(files: IndexedFiles) -> Statistics:
    """Counts and lengths, from the index alone."""
    lengths = document_lengths(files)
    full = lengths[lengths > 0]
    exponents, counts = np.unique(np.frexp(full)[1] - 1, return_counts=True)
    percents = (0, 50, 90, 99, 100)
    values = np.percentile(full, percents, method="lower") if full.size else [0] * len(percents)
    return Statistics(
        num_documents=files.num_documents,
        num_empty_documents=int(lengths.size - full.size),
        num_sequences=files.header.num_sequences,
        num_tokens=files.tokens.size,
        mean=float(full.mean()) if full.size else 0.0,
        percentiles={percent: int(value) for percent, value in zip(percents, values, strict=True)},
        histogram=[(1 << int(e), int(n)) for e, n in zip(exponents, counts, strict=True)],
    )


def verify_index(files: IndexedFiles) -> None:
    """Walk the index: sequences without gaps, documents that count them all.

    Raises:
        DataError: the first entry that does not fit, with its place.
    """
    _verify_offsets(files)
    _verify_documents(files)


def verify_ids(files: IndexedFiles, *, vocab_size: int, advance: Callable[[int], object]) -> None:
    """Walk every token.

    Args:
        files: the pair.
        vocab_size: ids must be below it.
        advance: hears how many tokens were just looked at.

    Raises:
        DataError: the first id outside the vocabulary, with its place.
    """
    for start in range(0, files.tokens.size, _BLOCK):
        stop = min(start + _BLOCK, files.tokens.size)
        check_ids(files, start, stop, vocab_size=vocab_size)
        advance(stop - start)


def _verify_offsets(files: IndexedFiles) -> None:
    """Each sequence has tokens and begins where the one before it ends."""
    itemsize, expected = files.header.dtype.itemsize, 0
    for start in range(0, files.header.num_sequences, _BLOCK):
        lengths = files.lengths[start : start + _BLOCK].astype(np.int64)
        offsets = files.offsets[start : start + _BLOCK]
        ends = expected + np.cumsum(lengths) * itemsize
        wrong = np.flatnonzero((lengths < 1) | (offsets != ends - lengths * itemsize))
        if wrong.size:
            place = int(wrong[0])
            raise DataError(
                f"{idx_path(files.prefix)}: sequence {start + place} is said to have "
                f"{lengths[place]} tokens from byte {offsets[place]} on, where "
                f"{ends[place] - lengths[place] * itemsize} was expected; prepare the data again"
            )
        expected = int(ends[-1])
    if expected != files.tokens.size * itemsize:
        raise DataError(
            f"{bin_path(files.prefix)} holds {files.tokens.size * itemsize} bytes and the lengths "
            f"of its index sum to {expected}; prepare the data again"
        )


def _verify_documents(files: IndexedFiles) -> None:
    """The document index counts all sequences, from 0, without a step back."""
    documents = files.documents
    entry = f"{idx_path(files.prefix)}: document index"
    if documents.size == 0 or int(documents[0]) != 0:
        raise DataError(f"{entry} does not begin at 0; prepare the data again")
    if int(documents[-1]) != files.header.num_sequences:
        raise DataError(
            f"{entry} ends at {int(documents[-1])} of {files.header.num_sequences} sequences; "
            "prepare the data again"
        )
    backwards = np.flatnonzero(np.diff(documents) < 0)
    if backwards.size:
        raise DataError(f"{entry} steps back after document {int(backwards[0])}; prepare the data again")
