"""Options of training under chunked schedules: loss and every gradient of one process without chunks."""

from __future__ import annotations

import pytest
import torch

from tests.harness import run_distributed
from tests.parity.layouts import GPT2_LIKE, LLAMA_LIKE, largest_difference, run_steps

BATCH = "--global-batch-size 4"
PP2 = "--pipeline-model-parallel-size 2"
FULL = "--recompute-granularity full"
CHUNKED = (
    f"{PP2} --pipe-sp-splits 4",
    f"{PP2} --pipe-sp-splits 2 --num-virtual-stages-per-pipeline-rank 2",
    f"{PP2} --pipe-sp-splits 2 --pipeline-schedule seq1f1b-zb",
)
EXACT = {
    "full uniform": f"{FULL} --recompute-method uniform",
    "full block": f"{FULL} --recompute-method block --recompute-num-layers 1",
    "core attention": "--recompute-granularity selective",
    "mlp": "--recompute-granularity selective --recompute-modules mlp core_attn",
}


def check(shape: str, reference: str, options: str, layouts: tuple[str, ...]) -> None:
    (expected,) = run_distributed(run_steps, 1, (f"{shape} {BATCH} {reference}",), torch.float64)[0]
    flags = tuple(f"{shape} {BATCH} {options} {layout}" for layout in layouts)
    for layout, outcome in zip(layouts, run_distributed(run_steps, 2, flags, torch.float64)[0], strict=True):
        difference, name = largest_difference(outcome, expected)
        assert difference <= 1e-12, f"{name} differs by {difference:.1e} under {options} {layout}"


@pytest.mark.parametrize("case", EXACT)
def test_recomputation_changes_nothing(case: str) -> None:
    check(LLAMA_LIKE, "", EXACT[case], CHUNKED)


def test_attention_window() -> None:
    window = "--window-size 10,0"
    check(GPT2_LIKE, window, window, CHUNKED[:2])


def test_a_window_changes_the_loss() -> None:
    flags = (f"{LLAMA_LIKE} {BATCH}", f"{LLAMA_LIKE} {BATCH} --window-size 10,0")
    whole, windowed = run_distributed(run_steps, 1, flags, torch.float64)[0]
    assert whole.loss != windowed.loss


@pytest.mark.parametrize("shape", [GPT2_LIKE, LLAMA_LIKE], ids=["gpt2", "llama"])
def test_packed_documents(shape: str) -> None:
    """Three stages' worth of parts: those in the middle must know the documents, too."""
    documents = "--reset-attention-mask --reset-position-ids --eod-mask-loss"
    check(shape, f"{documents} --pipeline-schedule seq1f1b", documents, CHUNKED)
