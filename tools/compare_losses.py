#!/usr/bin/env python3
"""Compare the losses of runs, step by step, with those of the first.

python tools/compare_losses.py runs/ONE runs/OTHER --tolerance 1e-5
python tools/compare_losses.py runs/ONE runs/OTHER runs/THIRD --assert-equal --plot losses.svg

The status is 0 if nothing is asserted or it holds, 1 if it does not, 2 for runs that cannot be compared.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from megatron.seq1f1b.errors import DataError
from megatron.seq1f1b.planning.chart import Curve, draw_losses
from megatron.seq1f1b.planning.drawing import to_svg
from megatron.seq1f1b.planning.png import to_png
from tools.command_line import Parser, end_by_signals, run

METRICS = "metrics.jsonl"


def main() -> int:
    """Read the command line, compare, say it."""
    parser = Parser(__doc__)
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help=f"two or more folders that --run-dir named, or {METRICS}",
    )
    parser.add_argument("--metric", default="lm_loss", help="which number of the rows (default: lm_loss)")
    parser.add_argument(
        "--assert-equal", action="store_true", help="fail unless steps and values are equal to the last bit"
    )
    parser.add_argument("--tolerance", type=_tolerance, help="fail where a relative difference is larger")
    parser.add_argument("--plot", type=Path, help="draw the curves: FILE.svg, or FILE.png with the viz extra")
    return compare(parser.parse_args())


def _tolerance(text: str) -> float:
    value = float(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text} must be 0 or more")
    return value


def compare(options: argparse.Namespace) -> int:
    """The exit status; prints a paragraph for every run but the first.

    Raises:
        DataError: runs that cannot be compared.
    """
    if len(options.runs) < 2:
        raise DataError(f"{options.runs[0]} alone cannot be compared; name two runs or more")
    if options.plot is not None and options.plot.suffix not in (".svg", ".png"):
        raise DataError(f"--plot {options.plot}: name a file that ends in .svg or .png")
    curves = [read_curve(run, options.metric) for run in options.runs]
    holds = [
        _compare_pair(options, options.runs[0], curves[0], run, curve)
        for run, curve in zip(options.runs[1:], curves[1:], strict=True)
    ]
    if options.plot is not None:
        _plot(options.plot, dict(zip(map(str, options.runs), curves, strict=True)), options.metric)
    return 0 if all(holds) else 1


def read_curve(run: Path, metric: str) -> dict[int, float]:
    """One number of every step that has it; of a step that was trained twice, the later.

    Raises:
        DataError: no such run, a row that is none, or no such number.
    """
    path = run / METRICS if run.is_dir() else run
    if not path.is_file():
        raise DataError(f"there is no {run / METRICS}; name the --run-dir of a run, or its {METRICS}")
    curve: dict[int, float] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            if row[metric] is not None:
                curve[int(row["iteration"])] = float(row[metric])
        except json.JSONDecodeError:
            raise DataError(f"{path}, line {number} is not JSON: {line[:60]!r}") from None
        except KeyError as missing:
            raise DataError(f"{path}, line {number} has no {missing}; it has {', '.join(row)}") from None
        except (TypeError, ValueError):
            raise DataError(f"{path}, line {number}: {metric} is not a number: {row!r:.60}") from None
    if not curve:
        raise DataError(f"{path} has no step with a {metric}")
    return curve


def difference(one: float, other: float) -> float:
    """Relative to the larger; a loss that is not a number differs from all but itself."""
    if one == other or (one != one and other != other):
        return 0.0
    apart = abs(one - other) / max(abs(one), abs(other))
    return apart if apart == apart else float("inf")


def _compare_pair(options: argparse.Namespace, first: Path, one: Curve, second: Path, other: Curve) -> bool:
    """Whether what is asserted holds of two runs."""
    common = sorted(one.keys() & other.keys())
    if not common:
        raise DataError(f"{first} ({_range(one)}) and {second} ({_range(other)}) have no step in common")
    print(f"{second} beside {first}:")
    apart = {step: difference(one[step], other[step]) for step in common}
    differing = [step for step in common if apart[step] != 0.0]
    print(f"  {len(common)} steps in common ({common[0]} to {common[-1]}), ", end="")
    print(f"{len(common) - len(differing)} of them equal to the last bit")
    if one.keys() != other.keys():
        print(f"  the others are not compared: {first} has {_range(one)}, {second} has {_range(other)}")
    for words, step in _told(differing, apart):
        print(f"  {words} at step {step}: {one[step]!r} and {other[step]!r}, {apart[step]:.3e} relative")
    if options.assert_equal and (differing or one.keys() != other.keys()):
        print("  not equal")
        return False
    if options.tolerance is not None and differing and not max(apart.values()) <= options.tolerance:
        print(f"  more than {options.tolerance:g}")
        return False
    return True


def _told(differing: list[int], apart: dict[int, float]) -> list[tuple[str, int]]:
    """Which of the differing steps are worth a line."""
    if not differing:
        return []
    return [("first difference", differing[0]), ("largest difference", max(differing, key=apart.__getitem__))]


def _range(curve: Curve) -> str:
    return f"{len(curve)} steps from {min(curve)} to {max(curve)}"


def _plot(path: Path, curves: dict[str, dict[int, float]], metric: str) -> None:
    drawing = draw_losses(curves, metric=metric)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        path.write_bytes(to_png(drawing))
    else:
        path.write_text(to_svg(drawing), encoding="utf-8")
    print(f"{path}: {len(curves)} curves")


if __name__ == "__main__":
    end_by_signals()
    run(main)
