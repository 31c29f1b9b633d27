"""Plans in orders that no schedule has, from files: loss and every gradient against one process."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from megatron.seq1f1b.schedule import Action, ActionKind, Plan, add_communication, plan_to_csv, validate_plan
from tests.harness import run_distributed
from tests.parity.layouts import GPT2_LIKE, largest_difference, run_steps
from tests.schedule.oracle import can_run

BACKWARDS = ([ActionKind.B], [ActionKind.I, ActionKind.W])


def plan_in_any_order(
    draw: random.Random, *, stages: int, microbatches: int, chunks: int, virtual_stages: int
) -> Plan:
    """Actions that ranks chosen at random take, each any that can run; each backward whole or in halves."""
    todo: list[list[Action]] = [[] for _ in range(stages)]
    for virtual_stage in range(stages * virtual_stages):
        for microbatch in range(microbatches):
            for chunk in range(chunks):
                for kind in [ActionKind.F, *draw.choice(BACKWARDS)]:
                    todo[virtual_stage % stages].append(Action(kind, virtual_stage, microbatch, chunk))
    last, done = stages * virtual_stages - 1, set[Action]()
    rows: list[list[Action]] = [[] for _ in range(stages)]
    while any(todo):
        rank = draw.randrange(stages)
        ready = [action for action in todo[rank] if can_run(action, done, last, chunks)]
        if ready:
            action = draw.choice(ready)
            todo[rank].remove(action)
            rows[rank].append(action)
            done.add(action)
    return Plan(
        name="any order",
        num_stages=stages,
        num_microbatches=microbatches,
        num_chunks=chunks,
        num_virtual_stages=virtual_stages,
        actions=tuple(map(tuple, rows)),
    )


@pytest.mark.slow
def test_plans_in_any_order_equal_one_process(tmp_path: Path) -> None:
    draw = random.Random(0)
    layouts = []
    for number, (chunks, virtual_stages) in enumerate(
        [(1, 1), (2, 1), (3, 1), (4, 1), (1, 2), (2, 2), (3, 2)]
    ):
        plan = plan_in_any_order(draw, stages=2, microbatches=4, chunks=chunks, virtual_stages=virtual_stages)
        validate_plan(plan)
        path = tmp_path / f"{number}.csv"
        path.write_text(plan_to_csv(add_communication(plan) if number % 2 else plan))
        layouts.append(
            f"{GPT2_LIKE} --global-batch-size 4 --pipeline-model-parallel-size 2 --pipe-sp-splits {chunks} "
            f"--num-virtual-stages-per-pipeline-rank {virtual_stages} --pipeline-schedule {path}"
        )
    whole = f"{GPT2_LIKE} --global-batch-size 4 --pipeline-schedule 1f1b"
    (reference,) = run_distributed(run_steps, 1, (whole,), torch.float64)[0]
    for flags, outcome in zip(
        layouts, run_distributed(run_steps, 2, tuple(layouts), torch.float64)[0], strict=True
    ):
        difference, name = largest_difference(outcome, reference)
        assert difference <= 1e-12, f"{name} differs by {difference:.1e} under {flags}"
