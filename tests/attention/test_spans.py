"""Blocks and spans cover every visible (query, key) pair exactly once, and little else."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from megatron.seq1f1b.attention.spans import Block, Shape, Span, Visibility, blocks_of, segments_of
from megatron.seq1f1b.chunk import Chunk


def chunk_of(start: int, stop: int) -> Chunk:
    return Chunk(index=1 if start else 0, count=3, start=start, stop=stop)


def pairs_of(block: Block, span: Span, window: int | None) -> list[tuple[int, int]]:
    """The pairs that a kernel serving the span computes and does not mask."""
    queries, keys = range(block.start, block.stop), range(span.start, span.stop)
    if span.shape is Shape.RECTANGLE:
        return [(query, key) for query in queries for key in keys]
    if span.shape is Shape.TRIANGLE:
        assert len(queries) == len(keys)
        return [(block.start + i, span.start + j) for i in range(len(queries)) for j in range(i + 1)]
    assert window is not None
    return [(query, key) for query in queries for key in keys if query - window <= key <= query]


@st.composite
def visibilities(draw: st.DrawFn) -> Visibility:
    start, length = draw(st.integers(0, 400)), draw(st.integers(1, 300))
    window = draw(st.none() | st.integers(0, 500))
    positions = st.lists(st.integers(1, start + length), max_size=6, unique=True)
    rows = draw(st.none() | st.lists(positions, min_size=1, max_size=2))
    documents = None if rows is None else tuple((0, *sorted(row)) for row in rows)
    return Visibility(chunk=chunk_of(start, start + length), window=window, document_starts=documents)


@settings(deadline=None)  # pairs are counted one by one, on machines of any speed
@given(visibilities())
def test_every_visible_pair_is_computed_exactly_once(visibility: Visibility) -> None:
    chunk, window = visibility.chunk, visibility.window
    blocks = blocks_of(visibility)
    for row, starts in enumerate(visibility.document_starts or ((0,),)):
        expected = []
        for query in range(chunk.start, chunk.stop):
            first = max(start for start in starts if start <= query)
            first = first if window is None else max(first, query - window)
            expected += [(query, key) for key in range(first, query + 1)]
        mine = [block for block in blocks if block.row in (None, row)]
        computed = [pair for block in mine for span in block.spans for pair in pairs_of(block, span, window)]
        assert sorted(computed) == expected


@settings(deadline=None)  # pairs are counted one by one, on machines of any speed
@given(visibilities())
def test_every_query_sees_a_key_of_every_span(visibility: Visibility) -> None:
    """A softmax over nothing is not a number, and its gradients would spread."""
    for block in blocks_of(visibility):
        for span in block.spans:
            seen = {query for query, _ in pairs_of(block, span, visibility.window)}
            assert seen == set(range(block.start, block.stop))


def test_plain_chunk_is_one_prefix_and_one_diagonal() -> None:
    (block,) = blocks_of(Visibility(chunk=chunk_of(100, 160)))
    assert block == Block(
        row=None,
        start=100,
        stop=160,
        spans=(
            Span(shape=Shape.RECTANGLE, start=0, stop=100),
            Span(shape=Shape.TRIANGLE, start=100, stop=160),
        ),
    )


def test_first_chunk_is_one_diagonal() -> None:
    (block,) = blocks_of(Visibility(chunk=chunk_of(0, 60)))
    assert [span.shape for span in block.spans] == [Shape.TRIANGLE]


def test_a_window_that_reaches_everything_changes_nothing() -> None:
    chunk = chunk_of(100, 160)
    assert blocks_of(Visibility(chunk=chunk, window=159)) == blocks_of(Visibility(chunk=chunk))


def test_equal_documents_in_all_rows_share_their_blocks() -> None:
    blocks = blocks_of(Visibility(chunk=chunk_of(10, 30), document_starts=((0, 5, 20), (0, 5, 20))))
    assert [(block.row, block.start, block.stop) for block in blocks] == [(None, 10, 20), (None, 20, 30)]


def test_segments_keep_the_document_that_crosses_into_the_chunk() -> None:
    segments = segments_of(chunk_of(10, 30), (0, 5, 20, 40))
    assert [(each.start, each.stop, each.first_key) for each in segments] == [(10, 20, 5), (20, 30, 20)]


def test_a_window_computes_few_keys_that_nobody_sees() -> None:
    window, chunk = 256, chunk_of(4096, 8192)
    blocks = blocks_of(Visibility(chunk=chunk, window=window))
    computed = sum(
        (block.stop - block.start) * (span.stop - span.start) for block in blocks for span in block.spans
    )
    assert computed <= 2.1 * chunk.length * (window + 1)
