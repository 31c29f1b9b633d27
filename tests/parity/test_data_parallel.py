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
ALIKE = (
    ("", MEAN),
    ("", f"{MEAN} {SHARDED} {BUCKETS}"),
    (PER_TOKEN, BUCKETS),
)
NARROW = tuple(
    ("--bf16", options)
    for options in (IN_BF16, f"{IN_BF16} {BUCKETS}", WIDE_SUMS, f"{WIDE_SUMS} --overlap-grad-reduce")
)
FLOAT32_ROUNDING = 2e-5
"""Of sums in another order."""
BF16_ROUNDING = 16 * 2.0**-8
"""Each of a few sums rounds once more than the gradients it adds up."""


def check(world_size: int, layout: str, *cases: tuple[str, str]) -> None:
    """Cases are of a model's flags and of those that say how its gradients are reduced."""
    references = tuple(f"{BASE} {model} --pipeline-schedule 1f1b" for model, _ in cases)
    runs = tuple(f"{BASE} {model} {options} {layout} {ZERO_BUBBLE}" for model, options in cases)
    expected = run_distributed(run_steps, 1, references, None)[0]
    outcomes = run_distributed(run_steps, world_size, runs, None)[0]
    for (_, options), outcome, reference in zip(cases, outcomes, expected, strict=True):
        difference, name = largest_difference(outcome, reference, floor=1e-3)
        is_narrow = "--grad-reduce-in-bf16" in options
        bound = BF16_ROUNDING if is_narrow else FLOAT32_ROUNDING
        assert difference <= bound, f"{name} differs by {difference:.1e} with {options}"
        assert all((grad.dtype == torch.bfloat16) == is_narrow for grad in outcome.grads.values())


def test_means_buckets_and_wide_sums_on_two_processes() -> None:
    check(2, "", ALIKE[1], NARROW[-1])


@pytest.mark.slow
@pytest.mark.parametrize(("world_size", "layout"), [(2, ""), (4, PP2)], ids=["one stage", "tied over stages"])
def test_every_way_to_reduce(world_size: int, layout: str) -> None:
    check(world_size, layout, *ALIKE, *NARROW)
