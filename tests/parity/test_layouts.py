"""Pipelines whose first or last part has fewer layers, or none, against one process: loss and gradients."""

from __future__ import annotations

import pytest
import torch

from tests.harness import run_distributed
from tests.parity.layouts import GPT2_LIKE, largest_difference, run_steps

BASE = f"{GPT2_LIKE} --global-batch-size 2"
PP2 = "--pipeline-model-parallel-size 2"
LAYOUT = "--pipeline-model-parallel-layout"
EMBEDDING, LOSS = "--account-for-embedding-in-pipeline-split", "--account-for-loss-in-pipeline-split"
ZERO_BUBBLE = "--pipeline-schedule seq1f1b-zb --pipe-sp-splits 4"


def check(*cases: tuple[str, str]) -> None:
    """Layers, and how they are laid over two stages."""
    references = tuple(f"{BASE} {layers} --pipeline-schedule 1f1b" for layers, _ in cases)
    expected = run_distributed(run_steps, 1, references, torch.float64)[0]
    runs = tuple(f"{BASE} {layers} {PP2} {layout}" for layers, layout in cases)
    outcomes = run_distributed(run_steps, 2, runs, torch.float64)[0]
    for (_, layout), outcome, reference in zip(cases, outcomes, expected, strict=True):
        difference, name = largest_difference(outcome, reference)
        assert difference <= 1e-10, f"{name} differs by {difference:.1e} with {layout}"


def test_an_embedding_alone_and_a_loss_alone() -> None:
    check(
        ("", f"{LAYOUT} E|t*4L {ZERO_BUBBLE}"),
        ("", f"{LAYOUT} Et|t|tt|L --pipe-sp-splits 2"),
    )


@pytest.mark.slow
def test_embedding_and_loss_counted_as_layers() -> None:
    five, virtual = "--num-layers 5", "--num-virtual-stages-per-pipeline-rank"
    check(
        (five, f"{EMBEDDING} --pipe-sp-splits 4"),
        (five, f"{LOSS} --pipeline-schedule 1f1b"),
        ("--num-layers 6", f"{EMBEDDING} {LOSS} {virtual} 2 --pipe-sp-splits 2"),
        ("", f"{LAYOUT} Et|tt|t|L --pipeline-schedule interleaved"),
        ("--untie-embeddings-and-output-weights", f"{LAYOUT} Etttt|L --recompute-granularity full"),
    )
