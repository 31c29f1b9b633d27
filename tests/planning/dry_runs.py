"""Dry runs and estimates of the same small runs, printed as JSON; a process of its own for each test.

python -m tests.planning.dry_runs WORLD_SIZE FLAGS...
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from megatron.seq1f1b.config import parse_arguments
from megatron.seq1f1b.planning.from_run import estimate_run
from megatron.seq1f1b.training.dry_run import rehearse
from megatron.seq1f1b.training.prepare import prepare


def main(world_size: int, flags: list[str]) -> None:
    """Print {"dry": [...], "estimate": [...]}, one entry per stage."""
    run = prepare(parse_arguments(flags), world_size=world_size)
    reports = {"dry": rehearse(run), "estimate": estimate_run(run)}
    print(json.dumps({name: [*map(asdict, report.stages)] for name, report in reports.items()}))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
