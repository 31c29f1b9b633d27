"""Chunked attention equals full causal attention, outputs and every gradient, in float64."""

from __future__ import annotations

import pytest
import torch

from megatron.seq1f1b.attention import CachePool
from tests.attention.problem import assert_close, chunked, exact, make_problem

BOUNDARIES = {
    "one": (0, 37),
    "two, uneven": (0, 25, 37),
    "three, uneven": (0, 20, 31, 37),
    "four, with a chunk of one token": (0, 10, 11, 30, 37),
    "eight": (0, 9, 16, 21, 26, 30, 33, 35, 37),
}
BACKENDS = ("cpu", "reference")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2), (4, 1)], ids=["mha", "gqa", "mqa"])
@pytest.mark.parametrize("boundaries", BOUNDARIES.values(), ids=BOUNDARIES.keys())
def test_equals_full_attention(backend: str, heads: int, groups: int, boundaries: tuple[int, ...]) -> None:
    problem = make_problem(heads=heads, groups=groups)
    assert_close(chunked(problem, boundaries, backend=backend), exact(problem), tolerance=1e-12)


@pytest.mark.parametrize("batch", [1, 3])
def test_equals_full_attention_for_any_micro_batch_size(batch: int) -> None:
    problem = make_problem(batch=batch, heads=4, groups=2)
    assert_close(chunked(problem, (0, 20, 31, 37), backend="cpu"), exact(problem), tolerance=1e-12)


@pytest.mark.parametrize("head_dim", [1, 5, 80, 256])
def test_equals_full_attention_for_odd_head_dims(head_dim: int) -> None:
    problem = make_problem(head_dim=head_dim)
    assert_close(chunked(problem, (0, 20, 37), backend="cpu"), exact(problem), tolerance=1e-12)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 2e-6), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)],
    ids=str,
)
def test_low_precision_stays_within_its_rounding(dtype: torch.dtype, tolerance: float) -> None:
    problem = make_problem(seq_length=256, heads=8, groups=2, head_dim=32, dtype=dtype)
    answer = chunked(problem, (0, 100, 175, 225, 256), backend="cpu")
    assert answer["key"].dtype is dtype
    assert_close(answer, exact(problem), tolerance=tolerance)


def test_more_threads_than_lanes_keeps_heads_apart_and_stays_exact() -> None:
    problem = make_problem(batch=1, heads=6, groups=1)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert_close(chunked(problem, (0, 20, 37), backend="cpu"), exact(problem), tolerance=1e-12)
    finally:
        torch.set_num_threads(threads)


def test_second_microbatch_allocates_nothing_and_reads_nothing_of_the_first() -> None:
    pool = CachePool()
    chunked(make_problem(seed=1), (0, 20, 31, 37), backend="cpu", pool=pool)
    allocated = pool.num_allocations
    problem = make_problem(seed=2)
    assert_close(chunked(problem, (0, 20, 31, 37), backend="cpu", pool=pool), exact(problem), tolerance=1e-12)
    assert pool.num_allocations == allocated
