"""Ways to reduce gradients over data-parallel processes: loss and every gradient against one process."""

from __future__ import annotations

import pytest
import torch

from tests.harness import run_distributed
from tests.parity.layouts import GPT2_LIKE, largest_difference, run_steps

BASE = f"{GPT2_LIKE} --global-batch-size 4"
PP2 = "--pipeline-model-parallel-size 2"
ZERO_BUBBLE = "--pipeline-schedule seq1f1b-zb --pipe-sp-splits 4"
SHARDED = "--use-distributed-optimizer"
MEAN = "--ddp-average-in-collective"
BUCKETS = "--overlap-grad-reduce --ddp-num-buckets 3"
PER_TOKEN = "--calculate-per-token-loss --eod-mask-loss"
IN_BF16 = "--bf16 --grad-reduce-in-bf16"
WIDE_SUMS = f"{IN_BF16} {SHARDED} --ddp-reduce-scatter-with-fp32-accumulation"
IN_FLOAT32 = (
    ("", MEAN),
    ("", f"{MEAN} {SHARDED} {BUCKETS}"),
    (PER_TOKEN, BUCKETS),
)
IN_BFLOAT16 = (IN_BF16, f"{IN_BF16} {BUCKETS}", WIDE_SUMS, f"{WIDE_SUMS} --overlap-grad-reduce")
BF16_ROUNDING = 2.0**-8


def check(world_size: int, layout: str, cases: tuple[tuple[str, str], ...], bound: float) -> None:
    references = tuple(f"{BASE} {model} --pipeline-schedule 1f1b" for model, _ in cases)
    runs = tuple(f"{BASE} {model} {options} {layout} {ZERO_BUBBLE}" for model, options in cases)
    expected = run_distributed(run_steps, 1, references, None)[0]
    outcomes = run_distributed(run_steps, world_size, runs, None)[0]
    for (_, options), outcome, reference in zip(cases, outcomes, expected, strict=True):
        difference, name = largest_difference(outcome, reference, floor=1e-3)
        assert difference <= bound, f"{name} differs by {difference:.1e} with {options}"
        has_narrow_gradients = all(grad.dtype == torch.bfloat16 for grad in outcome.grads.values())
        assert has_narrow_gradients == ("--grad-reduce-in-bf16" in options)


def test_means_and_buckets_on_two_processes() -> None:
    check(2, "", IN_FLOAT32, 2e-5)


@pytest.mark.slow
def test_means_and_buckets_with_embeddings_tied_over_stages() -> None:
    check(4, PP2, IN_FLOAT32, 2e-5)


@pytest.mark.parametrize(
    ("world_size", "layout"),
    [(2, ""), pytest.param(4, PP2, marks=pytest.mark.slow)],
    ids=["one", "two stages"],
)
def test_gradients_in_bfloat16(world_size: int, layout: str) -> None:
    """Each of a few sums rounds once more than the gradients it adds up."""
    cases = tuple(("--bf16", options) for options in IN_BFLOAT16)
    check(world_size, layout, cases, 16 * BF16_ROUNDING)
