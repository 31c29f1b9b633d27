"""Output layer and cross-entropy in slices of tokens: loss and every gradient as without."""

from __future__ import annotations

import pytest
import torch

from tests.harness import run_distributed
from tests.parity.layouts import GPT2_LIKE, LLAMA_LIKE, largest_difference, run_steps

SLICES = "--cross-entropy-slice-tokens"
PP2 = "--pipeline-model-parallel-size 2"
TP2 = "--tensor-model-parallel-size 2"
BATCH = "--global-batch-size 4"
BOUND, BOUND_WITH_TP = 1e-12, 1e-6


def check(world_size: int, *cases: tuple[str, str]) -> None:
    """Cases of (flags, slices)."""
    whole = tuple(f"{flags} {BATCH}" for flags, _ in cases)
    sliced = tuple(f"{flags} {BATCH} {slices}" for flags, slices in cases)
    outcomes = run_distributed(run_steps, world_size, whole + sliced, torch.float64)[0]
    for (flags, slices), want, have in zip(
        cases, outcomes[: len(cases)], outcomes[len(cases) :], strict=True
    ):
        bound = BOUND_WITH_TP if TP2 in flags else BOUND
        difference, name = largest_difference(have, want)
        assert difference <= bound, f"{name} differs by {difference:.1e} under {flags} {slices}"


def test_tied_untied_and_split_weights() -> None:
    check(
        2,
        (f"{GPT2_LIKE} {PP2} --pipe-sp-splits 4", f"{SLICES} 3"),
        (f"{LLAMA_LIKE} {PP2} --pipe-sp-splits 3 --pipeline-schedule seq1f1b-zb", f"{SLICES} 4"),
        (f"{LLAMA_LIKE} {TP2} --sequence-parallel --pipe-sp-splits 2 --micro-batch-size 2", f"{SLICES} 8"),
    )


@pytest.mark.slow
def test_layouts() -> None:
    zero_bubble = "--pipeline-schedule seq1f1b-zb"
    check(
        4,
        (f"{GPT2_LIKE} {PP2} {TP2} --sequence-parallel --pipe-sp-splits 4 {zero_bubble}", f"{SLICES} 1"),
        (f"{LLAMA_LIKE} {PP2} {TP2} --pipe-sp-splits 2", f"{SLICES} 5"),
        (f"{GPT2_LIKE} {PP2} --pipe-sp-splits 4 --overlap-grad-reduce", f"{SLICES} 1000"),
        (f"{LLAMA_LIKE} {PP2} --pipeline-schedule 1f1b", f"{SLICES} 7"),
    )
