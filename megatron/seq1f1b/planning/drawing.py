"""A picture as rectangles, lines and words, and SVG from it.

Every renderer draws the same list, so SVG, PNG and HTML show the same picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple


class Box(NamedTuple):
    """A filled rectangle; `key` names what it stands for, `text` stands in its middle."""

    x: float
    y: float
    width: float
    height: float
    fill: str
    key: str = ""
    text: str = ""
    text_size: float = 0.0
    text_fill: str = "#ffffff"


class Word(NamedTuple):
    """Text that starts at x, its baseline at y."""

    x: float
    y: float
    text: str
    size: float = 12.0
    is_bold: bool = False


class Line(NamedTuple):
    """Straight from point to point, (x, y) each; `key` names what it stands for."""

    points: tuple[tuple[float, float], ...]
    stroke: str
    width: float = 1.5
    key: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """Boxes, lines over them, and words, on a white ground, in pixels."""

    width: float
    height: float
    boxes: Sequence[Box]
    words: Sequence[Word]
    lines: Sequence[Line] = ()


def to_svg(drawing: Drawing) -> str:
    """The picture as a standalone SVG document."""
    size = f'width="{drawing.width:g}" height="{drawing.height:g}"'
    view = f'viewBox="0 0 {drawing.width:g} {drawing.height:g}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {view} font-family="Helvetica, Arial, sans-serif">',
        f'<rect {size} fill="#ffffff"/>',
        *(_box(box) for box in drawing.boxes),
        *(_line(line) for line in drawing.lines),
        *(_word(word) for word in drawing.words),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _box(box: Box) -> str:
    place = f'x="{box.x:.2f}" y="{box.y:.2f}" width="{box.width:.2f}" height="{box.height:.2f}"'
    title = f"<title>{escape(box.key)}</title>" if box.key else ""
    drawn = (
        f'<rect {place} fill="{box.fill}">{title}</rect>' if title else f'<rect {place} fill="{box.fill}"/>'
    )
    if not box.text:
        return drawn
    x, y = box.x + box.width / 2, box.y + box.height / 2 + 0.36 * box.text_size
    return (
        f'{drawn}<text x="{x:.2f}" y="{y:.2f}" font-size="{box.text_size:g}" fill="{box.text_fill}" '
        f'text-anchor="middle" pointer-events="none">{escape(box.text)}</text>'
    )


def _line(line: Line) -> str:
    points = " ".join(f"{x:.2f},{y:.2f}" for x, y in line.points)
    title = f"<title>{escape(line.key)}</title>" if line.key else ""
    drawn = f'stroke="{line.stroke}" stroke-width="{line.width:g}" stroke-linejoin="round"'
    return f'<polyline points="{points}" fill="none" {drawn}>{title}</polyline>'


def _word(word: Word) -> str:
    weight = ' font-weight="bold"' if word.is_bold else ""
    return (
        f'<text x="{word.x:.2f}" y="{word.y:.2f}" font-size="{word.size:g}"{weight} fill="#222222">'
        f"{escape(word.text)}</text>"
    )
