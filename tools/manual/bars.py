"""Horizontal bars, several to a label, as a drawing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from megatron.seq1f1b.planning.drawing import Box, Drawing, Word

COLOURS = ("#9aa5b1", "#1f5fa8", "#48a06c", "#dd8f3d")
LEFT, WIDTH, RIGHT, TOP, THICKNESS, GAP = 240.0, 520.0, 90.0, 80.0, 11.0, 9.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One label's values; None is not there."""

    label: str
    values: Sequence[float | None]


def bar_chart(
    title: str,
    bars: Sequence[Bar],
    *,
    names: Sequence[str],
    limit: float | None = None,
    limit_name: str = "",
    missing: str = "",
) -> Drawing:
    """Bars from zero on one scale, with their values or `missing` behind them, and a line at a limit."""
    largest = max([value for bar in bars for value in bar.values if value is not None] + [limit or 0.0])
    boxes: list[Box] = []
    words = [Word(14, 24, title, 14.0, True)]
    for number, name in enumerate(names):
        boxes.append(Box(LEFT + 150 * number, 36, 12, 12, COLOURS[number]))
        words.append(Word(LEFT + 150 * number + 18, 46, name))
    y = TOP
    for bar in bars:
        middle = y + THICKNESS * len(bar.values) / 2
        words.append(Word(14, middle + 4, bar.label))
        for number, value in enumerate(bar.values):
            length = 0.0 if value is None else max(1.0, WIDTH * value / largest)
            text = missing if value is None else f"{value:.4g}"
            if length:
                boxes.append(Box(LEFT, y, length, THICKNESS - 1, COLOURS[number]))
            if text:
                words.append(Word(LEFT + length + 5, y + THICKNESS - 2, text, 10.0))
            y += THICKNESS
        y += GAP
    if limit is not None:
        x = LEFT + WIDTH * limit / largest
        boxes.append(Box(x, TOP - 4, 1.2, y - TOP, "#d00000"))
        words.append(Word(x - 16, TOP - 8, limit_name, 10.0))
    return Drawing(width=LEFT + WIDTH + RIGHT, height=round(y + 6), boxes=boxes, words=words)
