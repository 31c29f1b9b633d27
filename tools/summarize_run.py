"""Say what a run did: how the loss fell, tokens per second, memory, where the files are.

python tools/summarize_run.py runs/NAME
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megatron.seq1f1b.errors import DataError
from tools.command_line import Parser, end_by_signals, run

BARS = "▁▂▃▄▅▆▇█"
CHART_WIDTH = 48
LAST_STEPS = 5
WARMUP_STEPS = 2
"""Steps left out of the speed: the first ones build caches and connections."""

Metrics = list[dict[str, Any]]


def main() -> None:
    """Read the command line, print the summary."""
    parser = Parser(__doc__)
    parser.add_argument("run_dir", type=Path, help="the folder that --run-dir named")
    run_dir: Path = parser.parse_args().run_dir
    print("\n".join(summary(read_metrics(run_dir), run_dir)))


def read_metrics(run_dir: Path) -> Metrics:
    """The rows of a run's metrics.jsonl, one per step; not half of one that a killed run left.

    Raises:
        DataError: there is none.
    """
    path = run_dir / "metrics.jsonl"
    if not path.is_file():
        raise DataError(f"{path} does not exist; name the --run-dir of a run")
    rows = [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    if not rows:
        raise DataError(f"{path} is empty; the run ended before its first step")
    return rows


def summary(metrics: Metrics, run_dir: Path) -> list[str]:
    """The lines to print."""
    losses = [float(step["lm_loss"]) for step in metrics]
    timed = metrics[WARMUP_STEPS:] or metrics
    speed = statistics.median(step["tokens_per_second"] for step in timed)
    seconds = statistics.median(step["step_seconds"] for step in timed)
    last = losses[-LAST_STEPS:]
    stages = ", ".join(f"{size / 2**20:,.0f}" for size in metrics[-1]["peak_memory_bytes"])
    files = ", ".join(sorted(file.name for file in run_dir.iterdir() if file.is_file()))
    return [
        f"trained  {len(metrics)} steps on {metrics[-1]['consumed_tokens']:,} tokens",
        f"loss     {losses[0]:.3f} at the first step, {statistics.mean(last):.3f} over the last {len(last)}",
        f"         {chart(losses)}",
        *_checked(metrics),
        *_trouble(metrics),
        f"speed    {speed:,.0f} tokens/s, {seconds:.2f} s a step (medians)",
        f"memory   {stages} MiB at most, stage by stage",
        f"files    {run_dir}: {files}",
    ]


def _checked(metrics: Metrics) -> list[str]:
    """The last validation, of every set, and the test."""
    lines = []
    validated = [step for step in metrics if step.get("validation_loss") is not None]
    for step in validated[-1:]:
        sets = step.get("validation_losses") or {}
        names = ", ".join(f"{name} {loss:.3f}" for name, loss in sets.items())
        loss = f"{step['validation_loss']:.3f}{f' ({names})' if names else ''}"
        lines.append(f"checked  validation loss {loss} at step {step['iteration']}")
    if metrics[-1].get("test_loss") is not None:
        lines.append(f"         test loss {metrics[-1]['test_loss']:.3f}")
    return lines


def _trouble(metrics: Metrics) -> list[str]:
    skipped, spikes = metrics[-1].get("skipped_steps", 0), metrics[-1].get("loss_spikes", 0)
    return [f"trouble  {skipped} steps skipped, {spikes} loss spikes"] if skipped or spikes else []


def chart(values: list[float]) -> str:
    """The values as a line of bars from the lowest to the highest, neighbours averaged."""
    width = min(CHART_WIDTH, len(values))
    edges = [round(column * len(values) / width) for column in range(width + 1)]
    columns = [statistics.mean(values[low:high]) for low, high in itertools.pairwise(edges)]
    lowest, highest = min(columns), max(columns)
    scale = (len(BARS) - 1) / (highest - lowest) if highest > lowest else 0.0
    return "".join(BARS[round((column - lowest) * scale)] for column in columns)


if __name__ == "__main__":
    end_by_signals()
    run(main)
