"""Curves over steps as a picture: the losses of several runs, and how far they are from the first."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from megatron.seq1f1b.planning.drawing import Box, Drawing, Line, Word

WIDTH, LEFT, RIGHT, MARGIN = 900.0, 74.0, 24.0, 16.0
TOP_HEIGHT, BOTTOM_HEIGHT, HEADING, FOOT, ROW = 300.0, 160.0, 30.0, 34.0, 20.0
COLOURS = ("#1f5fa8", "#dd8f3d", "#23774a", "#8a4fa8", "#b03a3a", "#3fa0a0", "#77777f")
GRID = "#e4e4e8"
CHARACTER = 6.4
"""Pixels of one character at the usual size, for words that end somewhere."""

Curve = Mapping[int, float]
"""A number by step."""


@dataclass(frozen=True, kw_only=True)
class _Panel:
    """One pair of axes; values become pixels through `height_of`, steps through `x_of`."""

    title: str
    top: float
    height: float
    ticks: Sequence[tuple[float, str]]
    height_of: Callable[[float], float]
    """Of a value, from 0 at the bottom to 1 at the top."""
    x_of: Callable[[float], float]

    def boxes(self) -> list[Box]:
        """The grid."""
        return [Box(LEFT, self._y(value), WIDTH - LEFT - RIGHT, 1.0, GRID) for value, _ in self.ticks]

    def words(self) -> list[Word]:
        """Title and values."""
        labels = [
            Word(LEFT - 8 - CHARACTER * len(text), self._y(value) + 4, text) for value, text in self.ticks
        ]
        return [Word(MARGIN, self.top - 12, self.title, 13.0, True), *labels]

    def line(self, name: str, colour: str, curve: Curve, width: float) -> list[Line]:
        """The finite values of one curve, broken where one is missing."""
        pieces: list[list[tuple[float, float]]] = [[]]
        for step in sorted(curve):
            if math.isfinite(curve[step]):
                pieces[-1].append((self.x_of(step), self._y(curve[step])))
            else:
                pieces.append([])
        # A step between two that are missing is a dot.
        dots = [
            [piece[0], (piece[0][0] + 2.0, piece[0][1])] if len(piece) == 1 else piece for piece in pieces
        ]
        return [Line(tuple(points), colour, width, name) for points in dots if points]

    def _y(self, value: float) -> float:
        return self.top + self.height * (1.0 - self.height_of(value))


def draw_losses(curves: Mapping[str, Curve], *, metric: str) -> Drawing:
    """The curves by their runs' names and, where there are several, their distance from the first.

    The first is broad, so that it is seen below one that covers it.
    The distance is relative and on a logarithmic scale; where a run equals the first to the last bit
    it has no line.
    """
    steps = [step for curve in curves.values() for step in curve]
    first, last = min(steps), max(steps)
    span = max(last - first, 1)

    def x_of(step: float) -> float:
        return LEFT + (step - first) / span * (WIDTH - LEFT - RIGHT)

    panels = [_linear(f"{metric} by step", curves.values(), x_of)]
    drawn: list[Mapping[str, Curve]] = [curves]
    names = list(curves)
    differences = {name: _relative(curves[name], curves[names[0]]) for name in names[1:]}
    bottom = panels[0].top + TOP_HEIGHT
    if any(differences.values()):
        title = f"relative difference from {names[0]}"
        panels.append(_logarithmic(title, differences.values(), x_of, bottom + FOOT + HEADING))
        drawn.append(differences)
        bottom = panels[1].top + BOTTOM_HEIGHT
    colours = {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(names)}
    words = [
        Word(x_of(step) - CHARACTER * len(f"{step:g}") / 2, bottom + 18, f"{step:g}")
        for step in _ticks(first, last, 8)
        if step == int(step)
    ]
    boxes = []
    for number, name in enumerate(names):
        y = bottom + FOOT + ROW * number
        boxes.append(Box(LEFT, y, 14, 4, colours[name]))
        is_equal = number > 0 and not differences[name]
        words.append(Word(LEFT + 22, y + 7, name + " (equal to the first, to the last bit)" * is_equal))
    lines = [
        line
        for panel, shown in zip(panels, drawn, strict=True)
        for name, curve in shown.items()
        for line in panel.line(name, colours[name], curve, 4.0 if name == names[0] else 1.5)
    ]
    return Drawing(
        width=WIDTH,
        height=bottom + FOOT + ROW * len(names) + MARGIN,
        boxes=[box for panel in panels for box in panel.boxes()] + boxes,
        words=[word for panel in panels for word in panel.words()] + words,
        lines=lines,
    )


def _relative(curve: Curve, reference: Curve) -> dict[int, float]:
    """Where the curves differ, by how much of the larger value."""
    return {
        step: abs(curve[step] - reference[step]) / max(abs(curve[step]), abs(reference[step]))
        for step in curve.keys() & reference.keys()
        if curve[step] != reference[step]
    }


def _linear(title: str, curves: Iterable[Curve], x_of: Callable[[float], float]) -> _Panel:
    values = _finite(curves)
    low, high = min(values, default=0.0), max(values, default=1.0)
    pad = 0.05 * (high - low) or 0.5
    low, high = low - pad, high + pad
    return _Panel(
        title=title,
        top=MARGIN + HEADING,
        height=TOP_HEIGHT,
        ticks=[(tick, f"{tick:g}") for tick in _ticks(low, high, 6)],
        height_of=lambda value: (value - low) / (high - low),
        x_of=x_of,
    )


def _logarithmic(title: str, curves: Iterable[Curve], x_of: Callable[[float], float], top: float) -> _Panel:
    values = [value for value in _finite(curves) if value > 0.0] or [1.0]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    high = max(high, low + 1)
    every = math.ceil((high - low) / 5)
    return _Panel(
        title=title,
        top=top,
        height=BOTTOM_HEIGHT,
        ticks=[(10.0**power, f"1e{power}") for power in range(low, high + 1, every)],
        height_of=lambda value: (math.log10(value) - low) / (high - low),
        x_of=x_of,
    )


def _finite(curves: Iterable[Curve]) -> list[float]:
    return [v for curve in curves for v in curve.values() if math.isfinite(v)]


def _ticks(low: float, high: float, count: int) -> list[float]:
    """At most so many round numbers from `low` to `high`."""
    rough = (high - low or 1.0) / count
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
    return [round(step * number, 12) for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
