"""Every schedule for every small layout: valid or refused, and equal to its formulas.

For p, m and k up to 8 and v up to 3, each plan of each schedule (training and evaluation) is made,
validated with and without its communication, and simulated with chunks of equal cost; its bubble
and peak must be the formulas' to 1e-9. Prints counts, then one JSON object. Exits with status 1 when
a plan fails.

    python benchmarks/schedule_grid.py
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megatron.seq1f1b.errors import ConfigurationError, PlanError
from megatron.seq1f1b.schedule import (
    SCHEDULE_NAMES,
    Plan,
    add_communication,
    bubble_formula,
    make_plan,
    peak_formula,
    simulate,
    unit_costs,
    validate_plan,
)

TOLERANCE = 1e-9


def check(plan: Plan) -> tuple[float, float]:
    """Validate and simulate one plan: distances of bubble and worst peak from their formulas."""
    validate_plan(plan)
    validate_plan(add_communication(plan))
    simulation = simulate(plan, unit_costs(plan))
    counts = {
        "stages": plan.num_stages,
        "microbatches": plan.num_microbatches,
        "chunks": plan.num_chunks,
        "virtual_stages": plan.num_virtual_stages,
    }
    bubble = bubble_formula(plan.name, **counts, forward_only=plan.forward_only)
    peak_error = 0.0
    if not plan.forward_only:
        peak_error = max(
            abs(peak - peak_formula(plan.name, **counts, stage=stage))
            for stage, peak in enumerate(simulation.peak_activation_microbatches_per_stage)
        )
    return abs(simulation.bubble_fraction - bubble), peak_error


@dataclass
class Outcome:
    """What came of a grid of layouts."""

    valid: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    largest_bubble_error: float = 0.0
    largest_peak_error: float = 0.0


def run_grid(largest: int, largest_virtual: int) -> Outcome:
    """All schedules and layouts up to the given counts."""
    outcome = Outcome()
    counts = range(1, largest + 1)
    layouts = itertools.product(counts, counts, counts, range(1, largest_virtual + 1), (False, True))
    for (p, m, k, v, forward_only), name in itertools.product(layouts, SCHEDULE_NAMES):
        where = f"{name} p={p} m={m} k={k} v={v} forward_only={forward_only}"
        try:
            plan = make_plan(
                name, stages=p, microbatches=m, chunks=k, virtual_stages=v, forward_only=forward_only
            )
        except ConfigurationError:
            outcome.refused[name] += 1
            continue
        try:
            bubble_error, peak_error = check(plan)
        except PlanError as error:
            outcome.failures.append(f"{where}: {error}")
            continue
        outcome.valid[name] += 1
        outcome.largest_bubble_error = max(outcome.largest_bubble_error, bubble_error)
        outcome.largest_peak_error = max(outcome.largest_peak_error, peak_error)
        if max(bubble_error, peak_error) > TOLERANCE:
            outcome.failures.append(f"{where}: bubble off by {bubble_error:.2e}, peak by {peak_error:.2e}")
    return outcome


def main() -> int:
    """Run the grid and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--largest", type=int, default=8, help="largest p, m and k")
    parser.add_argument("--largest-virtual", type=int, default=3, help="largest v")
    arguments = parser.parse_args()
    started_at = time.perf_counter()
    outcome = run_grid(arguments.largest, arguments.largest_virtual)
    for failure in outcome.failures:
        print(failure)
    for name in SCHEDULE_NAMES:
        print(f"{name:20} {outcome.valid[name]:5} valid, {outcome.refused[name]:5} refused")
    summary = vars(outcome) | {
        "seconds": round(time.perf_counter() - started_at, 2),
        "cpu_seconds": round(time.process_time(), 2),
    }
    print(json.dumps(summary))
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
