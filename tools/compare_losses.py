#!/usr/bin/env python3
"""Compare the losses of two runs, step by step.

python tools/compare_losses.py runs/ONE runs/OTHER --tolerance 1e-5
python tools/compare_losses.py runs/ONE runs/OTHER --assert-equal
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path


def main() -> int:
    """Print how far the runs are apart; status 1 where that is further than allowed, 2 for bad input."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs=2, type=Path, metavar="RUN", help="the folder that --run-dir named")
    parser.add_argument("--assert-equal", action="store_true", help="fail unless equal to the last bit")
    parser.add_argument("--tolerance", type=float, help="fail where a relative difference is larger")
    options = parser.parse_args()
    try:
        first, second = (read_losses(run) for run in options.runs)
    except (OSError, ValueError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    common = sorted(first.keys() & second.keys())
    if not common:
        print("error: the runs have no step in common", file=sys.stderr)
        return 2
    worst = max(common, key=lambda step: difference(first[step], second[step]))
    apart = difference(first[worst], second[worst])
    print(f"{len(common)} steps in common ({common[0]} to {common[-1]}), ", end="")
    print(f"{sum(first[step] == second[step] for step in common)} of them equal to the last bit")
    print(f"largest relative difference {apart:.3e}, at step {worst}: {first[worst]!r} and {second[worst]!r}")
    if options.assert_equal and (apart != 0 or first.keys() != second.keys()):
        print("not equal")
        return 1
    if options.tolerance is not None and not apart <= options.tolerance:
        print(f"more than {options.tolerance:g}")
        return 1
    return 0


def read_losses(run: Path) -> dict[int, float]:
    """The loss of every step in metrics.jsonl."""
    rows = (json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return {row["iteration"]: row["lm_loss"] for row in rows}


def difference(one: float, other: float) -> float:
    """Relative to the larger; a loss that is not a number differs from all but itself."""
    if one == other or (one != one and other != other):
        return 0.0
    apart = abs(one - other) / max(abs(one), abs(other))
    return apart if apart == apart else float("inf")


if __name__ == "__main__":
    sys.exit(main())
