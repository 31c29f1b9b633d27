"""What the runs of a sweep amount to: results.csv, a Markdown table and a plot.

    python tools/sweep_report.py runs/NAME --into docs/cluster.md

puts a sweep's table between the page's marks, and its plot beside the page as sweep.svg.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megatron.seq1f1b.errors import DataError
from megatron.seq1f1b.planning.drawing import Box, Drawing, Word, to_svg
from tools.command_line import Parser, run

MIB = 2**20
ROW, GAP, MARGIN, HEADING, BAR, PANEL = 30.0, 8.0, 14.0, 44.0, 170.0, 250.0
CHARACTER = 7.0
COLOURS = ("#1f5fa8", "#48a06c", "#c06a12", "#7a4fa0")


@dataclass(frozen=True, kw_only=True)
class Result:
    """One run; its numbers are medians over the steps after the first ones."""

    settings: dict[str, str]
    folder: str
    status: str
    """ok, skipped, refused, out of memory, not joined, timed out or crashed."""
    reason: str = ""
    tokens_per_second: float | None = None
    tflops_per_device: float | None = None
    step_seconds: float | None = None
    peak_memory_bytes: list[int] = field(default_factory=list)
    """The worst process of every stage."""
    predicted_bubble: float | None = None
    """Of the plan, with FLOPs for times and messages for nothing."""
    measured_bubble: float | None = None
    last_loss: float | None = None

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    def in_words(self) -> str:
        """One line for the terminal."""
        if self.tokens_per_second is None:
            return f"{self.status}: {self.reason}"
        return (
            f"{self.tokens_per_second:,.0f} tokens/s, {self.step_seconds:.2f} s a step, {self.memory()} MiB"
        )

    def memory(self) -> str:
        """MiB, stage by stage."""
        return ", ".join(f"{size / MIB:,.0f}" for size in self.peak_memory_bytes)


def write_report(
    folder: Path, results: Sequence[Result], *, changing: Sequence[str], flags: Sequence[str]
) -> None:
    """Write results.csv, results.md and results.svg; `changing` are the variables that differ."""
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "results.csv", results)
    (folder / "results.md").write_text(to_markdown(results, changing=changing, flags=flags), encoding="utf-8")
    (folder / "results.svg").write_text(to_svg(draw(results, changing=changing)), encoding="utf-8")


def write_csv(path: Path, results: Sequence[Result]) -> None:
    """A row per run: its variables, then its numbers; memory per stage is divided by semicolons."""
    rows = []
    for result in results:
        numbers = {name: value for name, value in asdict(result).items() if name != "settings"}
        numbers["peak_memory_bytes"] = ";".join(map(str, result.peak_memory_bytes))
        rows.append({**result.settings, **numbers})
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def to_markdown(results: Sequence[Result], *, changing: Sequence[str], flags: Sequence[str]) -> str:
    """A table of the runs, and below it what all of them share and what did not run."""
    header = [
        *changing,
        "tokens/s",
        "TFLOP/s per device",
        "MiB per stage",
        "bubble: plan",
        "measured",
        "loss",
    ]
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for result in results:
        cells = [result.settings[name] for name in changing]
        if result.status == "ok":
            cells += [
                f"{result.tokens_per_second:,.0f}",
                f"{result.tflops_per_device:.3g}",
                result.memory(),
                _percent(result.predicted_bubble),
                _percent(result.measured_bubble),
                f"{result.last_loss:.4f}",
            ]
        else:
            cells += [result.status, "", "", "", "", ""]
        lines.append("| " + " | ".join(cells) + " |")
    left_out = ("DATA_PATH", *changing)
    shared = {name: value for name, value in results[0].settings.items() if name not in left_out}
    same = " ".join([f"{name}={value}" for name, value in shared.items()] + list(flags))
    lines += ["", f"The same in all runs: {same}."] if same else [""]
    lines += [
        f"- {' '.join(result.settings[name] for name in changing)}: {result.status}: {result.reason}"
        for result in results
        if result.status != "ok"
    ]
    return "\n".join(lines) + "\n"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def draw(results: Sequence[Result], *, changing: Sequence[str]) -> Drawing:
    """Bars beside each other: speed, device speed, memory of every stage, bubble; of what was run."""
    results = [result for result in results if result.status != "skipped"]
    is_measured = any(result.measured_bubble is not None for result in results)
    labels = [" ".join(result.settings[name] for name in changing) for result in results]
    left = 2 * MARGIN + CHARACTER * max(map(len, labels), default=0)
    boxes: list[Box] = []
    words = [
        Word(MARGIN, _top(row) + 0.65 * ROW, label + ("" if result.status == "ok" else f": {result.status}"))
        for row, (label, result) in enumerate(zip(labels, results, strict=True))
    ]
    panels: list[tuple[str, Callable[[Result], list[float]], str]] = [
        ("tokens/s", lambda result: _some(result.tokens_per_second), "{:,.0f}"),
        ("TFLOP/s per device", lambda result: _some(result.tflops_per_device), "{:.3g}"),
        ("MiB, stage by stage", lambda result: [size / MIB for size in result.peak_memory_bytes], "{:,.0f}"),
        (
            f"bubble, % ({'measured' if is_measured else 'of the plan'})",
            lambda result: _some(
                result.measured_bubble if is_measured else result.predicted_bubble, scale=100
            ),
            "{:.1f}",
        ),
    ]
    for number, (title, values_of, form) in enumerate(panels):
        x = left + number * PANEL
        words.append(Word(x, MARGIN + 12, title, 13.0, True))
        longest = max((value for result in results for value in values_of(result)), default=0.0) or 1.0
        for row, result in enumerate(results):
            values = values_of(result)
            height = ROW / max(1, len(values))
            for part, value in enumerate(values):
                width = BAR * value / longest
                boxes.append(
                    Box(x, _top(row) + part * height, width, height - 1, COLOURS[number], f"{value:,.4g}")
                )
            if values:
                words.append(
                    Word(
                        x + BAR * max(values) / longest + 6, _top(row) + 0.65 * ROW, form.format(max(values))
                    )
                )
    height = _top(len(results)) + MARGIN
    return Drawing(width=left + len(panels) * PANEL, height=height, boxes=boxes, words=words)


def _some(value: float | None, *, scale: float = 1.0) -> list[float]:
    return [] if value is None else [value * scale]


def _top(row: int) -> float:
    return HEADING + row * (ROW + GAP)


def insert(folder: Path, page: Path) -> None:
    """Replace what stands between the page's marks with a sweep's table."""
    text = page.read_text(encoding="utf-8")
    table = (folder / "results.md").read_text(encoding="utf-8")
    marks = re.compile(r"(<!-- sweep -->\n).*(<!-- end of sweep -->)", re.S)
    if not marks.search(text):
        raise DataError(f"{page} has no marks <!-- sweep --> and <!-- end of sweep -->")
    page.write_text(marks.sub(lambda found: found[1] + table + found[2], text), encoding="utf-8")
    shutil.copy(folder / "results.svg", page.parent / "sweep.svg")


def main() -> None:
    """Read the command line, put the table into the page."""
    parser = Parser(__doc__)
    parser.add_argument("folder", type=Path, help="the folder of a sweep")
    parser.add_argument("--into", type=Path, required=True, metavar="PAGE", help="a Markdown page with marks")
    arguments = parser.parse_args()
    insert(arguments.folder, arguments.into)


if __name__ == "__main__":
    run(main)
