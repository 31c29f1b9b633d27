"""Show what a pipeline schedule does: its timeline, its actions, its bubble and its memory.

    python tools/show_schedule.py --schedule seq1f1b --stages 4 --microbatches 4 --chunks 4
    python tools/show_schedule.py --schedule plan.csv --format json

Costs are equal for all chunks and stages: a forward takes 1 second, a backward 2, and each half of a
split backward 1. A plan file needs no counts; those that are given must agree with it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megatron.seq1f1b.errors import ConfigurationError, Seq1F1BError
from megatron.seq1f1b.schedule import (
    SCHEDULE_NAMES,
    Plan,
    Simulation,
    make_plan,
    plan_from_csv,
    plan_to_csv,
    plan_to_grid,
    simulate,
    unit_costs,
)

COUNTS = {
    "stages": "num_stages",
    "microbatches": "num_microbatches",
    "chunks": "num_chunks",
    "virtual_stages": "num_virtual_stages",
}
"""The flags that give counts, and where a plan keeps them."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without repeating the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = _Parser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    names = ", ".join(SCHEDULE_NAMES)
    parser.add_argument("--schedule", required=True, help=f"a plan file (*.csv), or one of {names}")
    parser.add_argument("--stages", type=int, metavar="P", help="pipeline stages")
    parser.add_argument("--microbatches", type=int, metavar="M", help="microbatches per step")
    parser.add_argument("--chunks", type=int, metavar="K", help="chunks per microbatch")
    parser.add_argument("--virtual-stages", type=int, metavar="V", help="model parts per stage (1)")
    parser.add_argument("--format", choices=("grid", "csv", "json"), default="grid", help="(grid)")
    return parser.parse_args()


def plan_of(arguments: argparse.Namespace) -> Plan:
    """The plan that the command line names."""
    if arguments.schedule.lower().endswith(".csv"):
        return _plan_from_file(arguments)
    counts = {name: getattr(arguments, name) for name in COUNTS}
    counts["virtual_stages"] = 1 if counts["virtual_stages"] is None else counts["virtual_stages"]
    missing = [_flag(name) for name, count in counts.items() if count is None]
    if missing and arguments.schedule in SCHEDULE_NAMES:
        raise ConfigurationError(f"schedule {arguments.schedule} needs {', '.join(missing)} as well")
    return make_plan(arguments.schedule, **counts)


def _plan_from_file(arguments: argparse.Namespace) -> Plan:
    path = Path(arguments.schedule)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read plan file {path}: {error}") from None
    plan = plan_from_csv(text, name=path.name)
    for name, attribute in COUNTS.items():
        asked, found = getattr(arguments, name), getattr(plan, attribute)
        if asked is not None and asked != found:
            raise ConfigurationError(
                f"{_flag(name)} {asked} disagrees with plan file {path}, which has {found}; "
                "leave the flag out, or use another file"
            )
    return plan


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def as_json(simulation: Simulation) -> str:
    """What other programs read."""
    return json.dumps(
        {
            "makespan_seconds": simulation.makespan_seconds,
            "bubble_fraction": simulation.bubble_fraction,
            "bubble_fraction_per_stage": simulation.bubble_fraction_per_stage,
            "peak_activation_microbatches_per_stage": simulation.peak_activation_microbatches_per_stage,
            "actions": [[str(action) for action in actions] for actions in simulation.plan.actions],
        }
    )


def as_grid(simulation: Simulation) -> str:
    """The timeline, and what it amounts to."""
    peaks = ", ".join(f"{peak:.4g}" for peak in simulation.peak_activation_microbatches_per_stage)
    return (
        f"{plan_to_grid(simulation)}\n\n"
        f"makespan {simulation.makespan_seconds:g} s (F = I = W = 1 s, B = 2 s), "
        f"bubble {100 * simulation.bubble_fraction:.2f} %\n"
        f"peak activations per stage, in whole microbatches: {peaks}"
    )


def main() -> int:
    """Print what was asked for; 2 when it cannot be had."""
    arguments = parse_arguments()
    try:
        plan = plan_of(arguments)
    except Seq1F1BError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        return 2
    if arguments.format == "csv":
        sys.stdout.write(plan_to_csv(plan))
        return 0
    simulation = simulate(plan, unit_costs(plan))
    print(as_json(simulation) if arguments.format == "json" else as_grid(simulation))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
