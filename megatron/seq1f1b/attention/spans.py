r"""Which keys the queries of a chunk see, as few shapes that kernels compute well.

Every query sees itself and the keys before it, as far back as its document or the sliding window
reaches. In the plain case a chunk is one block of queries with two spans of keys:

    keys     0 ............... start ........ stop
    queries  [    RECTANGLE    ][ TRIANGLE \  ]

A document that starts inside the chunk starts a block of its own. A window cuts the queries into
blocks, so that keys no query of a block sees are not computed, and adds a shape: the BAND, whose
keys are masked by position. This is pure arithmetic; nothing here knows a tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from megatron.seq1f1b.chunk import Chunk

DocumentStarts = tuple[tuple[int, ...], ...]
"""For each sequence of the microbatch, the positions where its documents start; the first is 0."""

_MIN_BLOCK = 128
_MAX_BLOCK = 512


class Shape(Enum):
    """What a block's queries see of a span's keys."""

    RECTANGLE = "every query sees every key"
    TRIANGLE = "as many queries as keys, and each sees the keys up to itself"
    BAND = "each sees the keys up to itself that its window reaches"


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Keys [start, stop), by position in the sequence."""

    shape: Shape
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """Queries [start, stop) of one sequence (all of them if `row` is None), and what they see."""

    row: int | None
    start: int
    stop: int
    spans: tuple[Span, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """Queries [start, stop) of one document, which see its keys from `first_key` to themselves."""

    start: int
    stop: int
    first_key: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Visibility:
    """Everything that decides what a chunk's queries see.

    Attributes:
        chunk: whose queries they are.
        window: keys before itself that a query sees; None for all of them.
        document_starts: None where the sequence is one document.
    """

    chunk: Chunk
    window: int | None = None
    document_starts: DocumentStarts | None = None


def segments_of(chunk: Chunk, starts: tuple[int, ...]) -> tuple[Segment, ...]:
    """The pieces of a chunk's queries that belong to one document each.

    Args:
        chunk: the queries.
        starts: where the sequence's documents start, increasing from 0.
    """
    first = max(start for start in starts if start <= chunk.start)
    borders = [chunk.start, *(start for start in starts if chunk.start < start < chunk.stop)]
    stops = [*borders[1:], chunk.stop]
    first_keys = [first, *borders[1:]]
    return tuple(
        Segment(start=start, stop=stop, first_key=first_key)
        for start, stop, first_key in zip(borders, stops, first_keys, strict=True)
    )


@lru_cache(maxsize=4096)
def blocks_of(visibility: Visibility) -> tuple[Block, ...]:
    """The blocks of a chunk's queries; together they cover every (query, visible key) once."""
    rows: DocumentStarts = visibility.document_starts or ((0,),)
    if len(set(rows)) == 1:
        return tuple(_blocks_of_row(visibility, row=None, starts=rows[0]))
    return tuple(
        block
        for row, starts in enumerate(rows)
        for block in _blocks_of_row(visibility, row=row, starts=starts)
    )


def _blocks_of_row(visibility: Visibility, *, row: int | None, starts: tuple[int, ...]) -> Iterator[Block]:
    for segment in segments_of(visibility.chunk, starts):
        for start, stop in _query_blocks(segment, visibility.window):
            spans = tuple(_spans(start, stop, segment.first_key, visibility.window))
            yield Block(row=row, start=start, stop=stop, spans=spans)


def _query_blocks(segment: Segment, window: int | None) -> Iterator[tuple[int, int]]:
    """Cut a segment where the window would leave much of what a block computes unseen."""
    if window is None or segment.stop - segment.first_key <= window + 1:
        yield segment.start, segment.stop
        return
    length = min(max(window, _MIN_BLOCK), _MAX_BLOCK)
    for start in range(segment.start, segment.stop, length):
        yield start, min(start + length, segment.stop)


def _spans(start: int, stop: int, first_key: int, window: int | None) -> Iterator[Span]:
    """The spans of queries [start, stop) whose document starts at `first_key`.

    Between the first keys of the first and of the last query lies the window's edge. Its span
    includes the last query's first key, so that no query's softmax is over nothing.
    """
    reach = last_reach = first_key
    if window is not None:
        reach = max(first_key, start - window)
        last_reach = max(first_key, stop - 1 - window)
    if last_reach >= start > reach or last_reach > start:
        yield Span(shape=Shape.BAND, start=reach, stop=stop)
        return
    if last_reach > reach:
        yield Span(shape=Shape.BAND, start=reach, stop=last_reach + 1)
        reach = last_reach + 1
    if reach < start:
        yield Span(shape=Shape.RECTANGLE, start=reach, stop=start)
    yield Span(shape=Shape.TRIANGLE, start=start, stop=stop)
