"""Whatever is combined with whatever: loss and every gradient are those of one process."""

from __future__ import annotations

from random import Random

import pytest
import torch

from tests.harness import run_distributed
from tests.parity.layouts import Outcome, largest_difference, run_step, run_steps
from tests.parity.random_runs import draw_model, draw_run

RUNS_PER_MODEL = 4
WHOLE = "--pipeline-schedule seq1f1b"


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=[pytest.mark.slow] if seed else []) for seed in range(12)]
)
def test_any_combination_has_the_gradients_of_one_process(seed: int) -> None:
    random = Random(seed)
    model = draw_model(random)
    runs = tuple(f"{model} {draw_run(random, model)}" for _ in range(RUNS_PER_MODEL))
    expected = run_distributed(run_step, 1, f"{model} {WHOLE}", torch.float32)[0]
    assert isinstance(expected, Outcome)
    outcomes = run_distributed(run_steps, 4, runs, torch.float32, timeout_seconds=600.0)[0]
    for run, outcome in zip(runs, outcomes, strict=True):
        difference, name = largest_difference(outcome, expected, floor=1e-3)
        assert difference <= 2e-5, f"{name} differs by {difference:.1e} under {run}"
