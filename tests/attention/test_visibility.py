"""Sliding windows and packed documents: equal to an explicit mask, and to documents apart."""

from __future__ import annotations

import pytest
import torch

from megatron.seq1f1b.attention import DocumentStarts
from megatron.seq1f1b.errors import DataError
from tests.attention.problem import Problem, assert_close, chunked, exact, make_problem

BOUNDARIES = (0, 20, 31, 37)
BACKENDS = ("cpu", "reference")
DOCUMENTS: dict[str, DocumentStarts] = {
    "same in both rows, crossing borders": ((0, 7, 25), (0, 7, 25)),
    "different rows": ((0, 19, 20, 36), (0, 30)),
    "starts at chunk borders": ((0, 20, 31), (0, 20)),
    "documents of one token": (tuple(range(37)), (0, 1, 2)),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("documents", DOCUMENTS.values(), ids=DOCUMENTS.keys())
def test_documents_equal_an_explicit_mask(backend: str, documents: DocumentStarts) -> None:
    problem = make_problem(groups=2, document_starts=documents)
    assert_close(chunked(problem, BOUNDARIES, backend=backend), exact(problem), tolerance=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("window", [0, 1, 5, 16, 36, 100])
def test_window_equals_an_explicit_mask(backend: str, window: int) -> None:
    problem = make_problem(groups=2, window=window)
    assert_close(chunked(problem, BOUNDARIES, backend=backend), exact(problem), tolerance=1e-12)


@pytest.mark.parametrize("window", [100, 130, 300])
def test_window_cut_into_blocks_equals_an_explicit_mask(window: int) -> None:
    problem = make_problem(seq_length=700, batch=1, heads=2, groups=1, window=window)
    assert_close(chunked(problem, (0, 220, 700), backend="cpu"), exact(problem), tolerance=1e-12)


def test_window_inside_documents() -> None:
    documents = ((0, 150, 400), (0, 10))
    problem = make_problem(seq_length=500, heads=2, groups=2, window=120, document_starts=documents)
    assert_close(chunked(problem, (0, 220, 500), backend="cpu"), exact(problem), tolerance=1e-12)


@pytest.mark.parametrize("boundaries", [(0, 37), BOUNDARIES], ids=["one chunk", "three chunks"])
def test_documents_equal_each_document_alone(boundaries: tuple[int, ...]) -> None:
    starts = (0, 7, 25)
    problem = make_problem(groups=2, document_starts=(starts, starts))
    packed = chunked(problem, boundaries, backend="cpu")
    for start, stop in zip(starts, (*starts[1:], 37), strict=True):
        alone = Problem(
            query=problem.query[start:stop],
            key=problem.key[start:stop],
            value=problem.value[start:stop],
            grad_output=problem.grad_output[start:stop],
        )
        part = {name: tensor[start:stop] for name, tensor in packed.items()}
        assert_close(part, exact(alone), tolerance=1e-12)


def test_low_precision_windows_and_documents() -> None:
    documents = ((0, 100, 290), (0, 333))
    problem = make_problem(
        seq_length=512,
        heads=4,
        groups=2,
        head_dim=32,
        dtype=torch.bfloat16,
        window=64,
        document_starts=documents,
    )
    assert_close(chunked(problem, (0, 200, 512), backend="cpu"), exact(problem), tolerance=2e-2)


@pytest.mark.parametrize(
    ("documents", "names"),
    [(((0, 7),), "1 sequences, but the microbatch has 2"), (((0,), (3,)), "sequence 1 starts at")],
)
def test_documents_that_do_not_describe_the_sequences_are_refused(
    documents: DocumentStarts, names: str
) -> None:
    problem = make_problem(document_starts=documents)
    with pytest.raises(DataError, match=names):
        chunked(problem, BOUNDARIES, backend="cpu")
