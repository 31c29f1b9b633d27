"""The formulas against figures worked out by hand; the simulator agrees in tests/properties."""

from __future__ import annotations

from typing import Any

import pytest

from megatron.seq1f1b.schedule import bubble_formula, peak_formula

CASE = {"stages": 8, "microbatches": 16}


@pytest.mark.parametrize(
    ("name", "counts", "bubble"),
    [
        ("1f1b", CASE, 7 / 23),
        ("interleaved", {**CASE, "virtual_stages": 2}, 7 / 39),
        ("seq1f1b", {**CASE, "chunks": 4}, 7 / 71),
        ("seq1f1b-interleaved", {**CASE, "chunks": 4, "virtual_stages": 2}, 7 / 135),
        ("seq1f1b-zb", {**CASE, "chunks": 4}, 7 / 199),
        ("seq1f1b-interleaved", {"stages": 4, "microbatches": 1, "virtual_stages": 2}, 3 / 4),
        ("seq1f1b-zb", {"stages": 8, "microbatches": 1, "chunks": 4}, 14 / 26),
        ("seq1f1b", {"stages": 1, "microbatches": 3, "chunks": 4}, 0.0),
    ],
)
def test_bubble(name: str, counts: dict[str, Any], bubble: float) -> None:
    assert bubble_formula(name, **counts) == pytest.approx(bubble, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "counts", "peak"),
    [
        ("1f1b", CASE, 8.0),
        ("1f1b", {**CASE, "stage": 5}, 3.0),
        ("1f1b", {"stages": 8, "microbatches": 2}, 2.0),
        ("interleaved", {**CASE, "virtual_stages": 2}, (3 * 8 - 1) / 2),
        ("seq1f1b", {**CASE, "chunks": 4}, 11 / 4),
        ("seq1f1b", {**CASE, "chunks": 4, "stage": 7}, 1.0),
        ("seq1f1b-interleaved", {**CASE, "chunks": 4, "virtual_stages": 2}, (3 * 8 + 4 - 2) / 8),
        ("seq1f1b-interleaved", {**CASE, "chunks": 8, "virtual_stages": 2}, 1 + 14 / 16),
        ("seq1f1b-zb", {**CASE, "chunks": 4, "stage": 7}, 11 / 4),
    ],
)
def test_peak(name: str, counts: dict[str, Any], peak: float) -> None:
    assert peak_formula(name, **counts) == pytest.approx(peak, abs=1e-12)


def test_zero_bubble_leaves_at_most_two_fifths_of_seq1f1bs_bubble() -> None:
    for stages in range(2, 17):
        for units in range(3 * (stages - 1), 200):
            split, whole = (
                bubble_formula(name, stages=stages, microbatches=units) for name in ("seq1f1b-zb", "seq1f1b")
            )
            assert split <= 0.4 * whole + 1e-12
