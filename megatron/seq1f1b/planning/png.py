"""Drawings as PNG, through matplotlib (the `viz` extra)."""

from __future__ import annotations

import importlib
import io

from megatron.seq1f1b.errors import ConfigurationError
from megatron.seq1f1b.planning.drawing import Drawing

DOTS_PER_INCH = 100.0
POINTS_PER_PIXEL = 72.0 / DOTS_PER_INCH


def to_png(drawing: Drawing) -> bytes:
    """The picture in pixels, one for each of the drawing's.

    Raises:
        ConfigurationError: matplotlib is not installed.
    """
    try:
        agg, figures, patches, lines = (
            importlib.import_module(f"matplotlib.{name}")
            for name in ("backends.backend_agg", "figure", "patches", "lines")
        )
    except ImportError as error:
        raise ConfigurationError(
            f"PNG needs matplotlib ({error}); install the viz extra (pip install matplotlib), or ask for SVG"
        ) from None
    inches = (drawing.width / DOTS_PER_INCH, drawing.height / DOTS_PER_INCH)
    figure = figures.Figure(figsize=inches, dpi=DOTS_PER_INCH, facecolor="white")
    canvas = agg.FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_xlim(0, drawing.width)
    axes.set_ylim(drawing.height, 0)
    axes.axis("off")
    for box in drawing.boxes:
        place = (box.x, box.y)
        axes.add_patch(patches.Rectangle(place, box.width, box.height, facecolor=box.fill, linewidth=0))
        if box.text:
            middle = (box.x + box.width / 2, box.y + box.height / 2)
            size = box.text_size * POINTS_PER_PIXEL
            axes.text(*middle, box.text, fontsize=size, color=box.text_fill, ha="center", va="center")
    for line in drawing.lines:
        width = line.width * POINTS_PER_PIXEL
        axes.add_line(lines.Line2D(*zip(*line.points, strict=True), color=line.stroke, linewidth=width))
    for word in drawing.words:
        axes.text(
            word.x,
            word.y,
            word.text,
            fontsize=word.size * POINTS_PER_PIXEL,
            fontweight="bold" if word.is_bold else "normal",
            color="#222222",
        )
    written = io.BytesIO()
    canvas.print_png(written)
    return written.getvalue()
