"""Plan, validate and simulate one large pipeline; prints seconds of each and the peak memory.

The defaults make 2.1 million compute actions: 64 stages, 512 microbatches, 16 chunks, 2 virtual
stages. With --communication the plan is validated and simulated with its 4.2 million messages' sends
and receives.

    python benchmarks/schedule_scale.py
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megatron.seq1f1b.schedule import (
    SCHEDULE_NAMES,
    add_communication,
    bubble_formula,
    make_plan,
    simulate,
    unit_costs,
    validate_plan,
)


def parse_arguments() -> argparse.Namespace:
    """The layout from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--schedule", choices=SCHEDULE_NAMES, default="seq1f1b-interleaved")
    parser.add_argument("--stages", type=int, default=64)
    parser.add_argument("--microbatches", type=int, default=512)
    parser.add_argument("--chunks", type=int, default=16)
    parser.add_argument("--virtual-stages", type=int, default=2)
    parser.add_argument("--communication", action="store_true", help="with sends and receives")
    return parser.parse_args()


def main() -> None:
    """Run the three steps and print what they took."""
    arguments = parse_arguments()
    counts = {
        "stages": arguments.stages,
        "microbatches": arguments.microbatches,
        "chunks": arguments.chunks,
        "virtual_stages": arguments.virtual_stages,
    }
    seconds: dict[str, float] = {}

    def lap(name: str, started_at: float) -> float:
        now = time.perf_counter()
        seconds[name] = round(now - started_at, 2)
        print(f"{name:20} {seconds[name]:7.2f} s", flush=True)
        return now

    first = now = time.perf_counter()
    plan = make_plan(arguments.schedule, **counts)
    num_compute_actions = sum(map(len, plan.actions))
    now = lap("plan", now)
    if arguments.communication:
        plan = add_communication(plan)
        now = lap("add communication", now)
    validate_plan(plan)
    now = lap("validate", now)
    simulation = simulate(plan, unit_costs(plan))
    lap("simulate", now)
    lap("total", first)
    result = {
        **counts,
        "compute_actions": num_compute_actions,
        "actions": sum(map(len, plan.actions)),
        "seconds": seconds,
        "cpu_seconds": round(time.process_time(), 2),
        "peak_rss_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3),
        "bubble_fraction": simulation.bubble_fraction,
        "bubble_formula": bubble_formula(arguments.schedule, **counts),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
