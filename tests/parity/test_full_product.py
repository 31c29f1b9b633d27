"""Every schedule under every layout, chunk count and number of microbatches, in float32."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from tests.harness import run_distributed
from tests.parity.layouts import LLAMA_LIKE, largest_difference, run_steps
from tests.parity.test_schedules import INTERLEAVED, PP2, PP4, SEQ1F1B, TP2_PP2, ZERO_BUBBLE, reference

SCHEDULES = {"seq1f1b": SEQ1F1B, "interleaved": INTERLEAVED, "zero bubble": ZERO_BUBBLE}
LAYOUTS = {
    "PP2": (2, 2, 1, PP2),
    "PP4": (4, 4, 1, PP4),
    "TP2 PP2": (4, 2, 1, TP2_PP2),
    "DP2 PP2": (4, 2, 2, PP2),
}
"""Processes, stages, data-parallel replicas, flags."""
CHUNKS = (1, 2, 4, 5)
"""The last is more than any number of stages here."""


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_loss_and_every_gradient_equal_one_process(schedule: str, layout: str) -> None:
    world_size, stages, replicas, flags = LAYOUTS[layout]
    per_replica = sorted({stages // 2, stages, 2 * stages})
    cases = [
        (microbatches * replicas, f"{LLAMA_LIKE} {flags} {SCHEDULES[schedule]} {chunks}")
        for chunks, microbatches in product(CHUNKS, per_replica)
    ]
    sized = tuple(f"{case} --global-batch-size {batch}" for batch, case in cases)
    outcomes = run_distributed(run_steps, world_size, sized, torch.float32, timeout_seconds=600.0)[0]
    for (batch, case), outcome in zip(cases, outcomes, strict=True):
        difference, name = largest_difference(outcome, reference("llama", torch.float32, batch))
        assert difference <= 1e-5, f"{name} differs by {difference:.1e} under {case}, batch {batch}"
