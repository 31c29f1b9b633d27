"""Measured figures: what `make_docs.py --record` has kept, as sections of a page and plots."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron.seq1f1b.planning.drawing import to_svg
from tools.manual.bars import Bar, bar_chart
from tools.manual.tables import table


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One benchmark's figures."""

    name: str
    title: str
    says: str
    """What the figures say, in a sentence or two."""
    command: str
    machine: str
    day: str
    label: str
    """The key that tells rows apart."""
    columns: list[str]
    """Keys to show; all."""
    bars: list[str]
    """Keys to plot."""
    rows: list[dict[str, Any]]


def read_results(folder: Path) -> list[Result]:
    """All that were recorded, by name; a file without rows waits for its first record."""
    found = [
        Result(name=path.stem, **json.loads(path.read_text(encoding="utf-8")))
        for path in sorted(folder.glob("*.json"))
    ]
    return [result for result in found if result.rows]


def section(result: Result) -> str:
    """A heading, the figures, the plot, the command, the machine and the day.

    Rows without any of the chosen figures, such as what was measured, are left out.
    """
    columns = result.columns or list(dict.fromkeys(key for row in result.rows for key in row))
    rows = [
        [_shown(row[column]) if column in row else "not measured" for column in columns]
        for row in result.rows
        if row.keys() & set(columns)
    ]
    lines = [f"### {result.title}", "", *([result.says, ""] if result.says else [])]
    lines += [table([column.replace("_", " ") for column in columns], rows), ""]
    if result.bars:
        lines += [f"![{result.title}](pictures/result_{result.name}.svg)", ""]
    lines += [f"`{result.command}` on {result.machine}, {result.day}.", ""]
    return "\n".join(lines)


def plot(result: Result) -> str:
    """The chosen figures as bars, of the rows that have any."""
    bars = [
        Bar(label=str(row.get(result.label, "")), values=[row.get(key) for key in result.bars])
        for row in result.rows
        if row.keys() & set(result.bars)
    ]
    names = [key.replace("_", " ") for key in result.bars]
    return to_svg(bar_chart(result.title, bars, names=names))


def _shown(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        has_lists = any(isinstance(each, list | tuple) for each in value)
        return ("; " if has_lists else ", ").join(map(_shown, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(each)}" for key, each in value.items())
    return str(value)
