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
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megatron.seq1f1b.errors import ConfigurationError
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


def run_grid(largest: int, largest_virtual: int) -> tuple[dict[str, object], list[str]]:
    """All layouts up to the given counts: a summary for JSON, and what failed."""
    valid: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    failures: list[str] = []
    worst_bubble = worst_peak = 0.0
    counts = range(1, largest + 1)
    layouts = itertools.product(counts, counts, counts, range(1, largest_virtual + 1), (False, True))
    for (p, m, k, v, forward_only), name in itertools.product(layouts, SCHEDULE_NAMES):
        where = f"{name} p={p} m={m} k={k} v={v} forward_only={forward_only}"
        try:
            plan = make_plan(
                name, stages=p, microbatches=m, chunks=k, virtual_stages=v, forward_only=forward_only
            )
        except ConfigurationError:
            refused[name] += 1
            continue
        try:
            bubble_error, peak_error = check(plan)
        except ValueError as error:
            failures.append(f"{where}: {error}")
            continue
        valid[name] += 1
        worst_bubble, worst_peak = max(worst_bubble, bubble_error), max(worst_peak, peak_error)
        if max(bubble_error, peak_error) > TOLERANCE:
            failures.append(f"{where}: bubble off by {bubble_error:.2e}, peak by {peak_error:.2e}")
    summary: dict[str, object] = {
        "valid": dict(valid),
        "refused": dict(refused),
        "failures": len(failures),
        "largest_bubble_error": worst_bubble,
        "largest_peak_error": worst_peak,
    }
    return summary, failures


def main() -> int:
    """Run the grid and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--largest", type=int, default=8, help="largest p, m and k")
    parser.add_argument("--largest-virtual", type=int, default=3, help="largest v")
    arguments = parser.parse_args()
    started_at = time.perf_counter()
    summary, failures = run_grid(arguments.largest, arguments.largest_virtual)
    summary["seconds"] = round(time.perf_counter() - started_at, 2)
    summary["cpu_seconds"] = round(time.process_time(), 2)
    for failure in failures:
        print(failure)
    for name in SCHEDULE_NAMES:
        valid, refused = summary["valid"][name], summary["refused"].get(name, 0)
        print(f"{name:20} {valid:5} valid, {refused:5} refused")
    print(json.dumps(summary))
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
