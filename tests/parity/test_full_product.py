"""Every schedule under every layout, chunk count and number of microbatches, in float32.

Each test prints the largest difference it found, which `pytest -rP` shows.
"""

from __future__ import annotations

from functools import cache
from itertools import product

import pytest
import torch

from tests.harness import run_distributed
from tests.parity.layouts import LLAMA_LIKE, Outcome, largest_difference, run_steps
from tests.parity.test_schedules import PP2, PP4, TP2_PP2

MODEL = f"{LLAMA_LIKE} --num-layers 8 --eval-iters 1 --eval-interval 1"
CHUNKS = (1, 2, 4, 5)
"""The last is more than any number of stages here."""
TWO_PARTS = "--num-virtual-stages-per-pipeline-rank 2"
SCHEDULES = {
    "1f1b": ("", (1,)),
    "interleaved": (TWO_PARTS, (1,)),
    "seq1f1b": ("", CHUNKS),
    "seq1f1b-interleaved": (TWO_PARTS, CHUNKS),
    "seq1f1b-zb": ("", CHUNKS),
}
"""Flags, and the numbers of chunks that the schedule takes."""
LAYOUTS = {
    "PP2": (2, 2, 1, PP2),
    "PP4": (4, 4, 1, PP4),
    "TP2 PP2": (4, 2, 1, TP2_PP2),
    "DP2 PP2": (4, 2, 2, PP2),
}
"""Processes, stages, data-parallel replicas, flags."""


@cache
def reference(global_batch_size: int) -> Outcome:
    """One process, one chunk, Megatron-Core's own function."""
    flags = f"{MODEL} --pipeline-schedule 1f1b --global-batch-size {global_batch_size}"
    (outcome,) = run_distributed(run_steps, 1, (flags,), torch.float32)[0]
    return outcome


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_losses_and_every_gradient_equal_one_process(schedule: str, layout: str) -> None:
    world_size, stages, replicas, flags = LAYOUTS[layout]
    extra, chunk_counts = SCHEDULES[schedule]
    per_replica = (stages, 2 * stages) if schedule == "interleaved" else (stages // 2, stages, 2 * stages)
    cases = [
        (microbatches * replicas, f"{flags} --pipeline-schedule {schedule} {extra} --pipe-sp-splits {chunks}")
        for chunks, microbatches in product(chunk_counts, per_replica)
    ]
    sized = tuple(f"{MODEL} {case} --global-batch-size {batch}" for batch, case in cases)
    outcomes = run_distributed(run_steps, world_size, sized, torch.float32, timeout_seconds=900.0)[0]
    found = []
    for (batch, case), outcome in zip(cases, outcomes, strict=True):
        assert outcome.validation_loss is not None
        found.append((*largest_difference(outcome, reference(batch)), f"{case}, batch {batch}"))
    difference, name, case = max(found)
    print(
        f"{len(cases)} cases of {schedule}, {layout}: {name} differs most, by {difference:.1e}, under {case}"
    )
    assert difference <= 1e-5, f"{name} differs by {difference:.1e} under {case}"


@pytest.mark.slow
def test_stages_of_unequal_depth() -> None:
    layers = "--decoder-first-pipeline-num-layers 6 --decoder-last-pipeline-num-layers 2"
    uneven = f"{MODEL} {PP2} {layers} --global-batch-size 4"
    cases = tuple(
        f"{uneven} --pipeline-schedule {schedule} {extra} --pipe-sp-splits {max(chunk_counts)}"
        for schedule, (extra, chunk_counts) in SCHEDULES.items()
    )
    outcomes = run_distributed(run_steps, 2, cases, torch.float32, timeout_seconds=600.0)[0]
    for case, outcome in zip(cases, outcomes, strict=True):
        difference, name = largest_difference(outcome, reference(4))
        assert difference <= 1e-5, f"{name} differs by {difference:.1e} under {case}"
