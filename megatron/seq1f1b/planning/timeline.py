"""Timelines of simulated plans as pictures, the way the papers draw them.

Stages are rows, time runs to the right, what is white is bubble. Forwards are blue, backwards green
(the halves I and W teal and orange), the shade tells microbatches apart, and every cell carries its
chunk's number, under that of its microbatch where there is room. Later model parts of a stage are
framed darker at the bottom.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from megatron.seq1f1b.planning.drawing import Box, Drawing, Word
from megatron.seq1f1b.schedule import Action, ActionKind, Plan, Simulation

MARGIN, LEFT, RIGHT = 14.0, 66.0, 96.0
ROW, GAP, HEADING = 26.0, 4.0, 46.0
MIN_WIDTH, MAX_WIDTH, MIN_CELL = 900.0, 12000.0, 9.0
MIN_TEXT = 5.5
BAND_WIDTH, BAND_GAP = 1600.0, 14.0
UNBROKEN = 1e9
"""A band width that no picture reaches."""

SHADES = {
    ActionKind.F: ("#1f5fa8", "#4a8bd0", "#7fb0e3", "#2f78bd"),
    ActionKind.B: ("#23774a", "#48a06c", "#80c296", "#2f8d58"),
    ActionKind.I: ("#1d7a7a", "#3fa0a0", "#7cc4c4", "#2b8c8c"),
    ActionKind.W: ("#c06a12", "#dd8f3d", "#eeb477", "#cf7d24"),
}
"""Four shades per kind: neighbours in time are never more than two microbatches apart."""

NAMES = {
    ActionKind.F: "forward",
    ActionKind.B: "backward",
    ActionKind.I: "input grad",
    ActionKind.W: "weight grad",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """One simulated plan, and what is known of its stages' memory."""

    title: str
    simulation: Simulation
    stage_labels: Sequence[str]
    """What stands right of each row, for instance its peak memory."""
    caption: str


def describe(plan: Plan) -> str:
    """The plan's name and counts."""
    text = f"{plan.name}, {plan.num_stages} stages, {plan.num_microbatches} microbatches"
    text += f", {plan.num_chunks} chunk{'s' if plan.num_chunks > 1 else ''}"
    return text + (f", {plan.num_virtual_stages} virtual stages" if plan.num_virtual_stages > 1 else "")


def caption_of(simulation: Simulation, *, memory: str | None = None, worst_stage: int = 0) -> str:
    """Bubble share, peak memory and length of a step in one line."""
    peaks = simulation.peak_activation_microbatches_per_stage
    worst = worst_stage if memory else max(range(len(peaks)), key=lambda stage: peaks[stage])
    held = memory or f"{peaks[worst]:.3g} microbatches' activations"
    return (
        f"bubble {100 * simulation.bubble_fraction:.1f} %, peak memory {held} on stage {worst}, "
        f"step {simulation.makespan_seconds:.4g} s"
    )


def draw(panels: Sequence[Panel], *, band_width: float = BAND_WIDTH) -> Drawing:
    """All panels below each other, on one scale of time, broken into bands of `band_width` pixels."""
    span = max(panel.simulation.makespan_seconds for panel in panels)
    wanted = span * MIN_CELL / min(_usual_forward(panel.simulation) for panel in panels)
    width = min(max(wanted, MIN_WIDTH), MAX_WIDTH)
    scale, band_width = width / span, width / math.ceil(width / band_width)
    right = LEFT + band_width
    boxes: list[Box] = []
    words: list[Word] = []
    top = MARGIN
    for panel in panels:
        drawn = _Bands(panel, top + HEADING, scale, band_width)
        boxes += drawn.boxes()
        words += [Word(MARGIN, top + 16, panel.title, 14.0, True), Word(MARGIN, top + 34, panel.caption)]
        words += drawn.words(right)
        top += HEADING + drawn.height + MARGIN
    kinds = {kind for panel in panels for kind in panel.simulation.plan.kinds}
    for number, kind in enumerate(kind for kind in SHADES if kind in kinds):
        boxes.append(Box(LEFT + 110 * number, top, 14, 14, SHADES[kind][0]))
        words.append(Word(LEFT + 110 * number + 20, top + 12, NAMES[kind]))
    return Drawing(width=round(right + RIGHT), height=round(top + 14 + MARGIN), boxes=boxes, words=words)


def _usual_forward(simulation: Simulation) -> float:
    """Median seconds of a forward."""
    return statistics.median(
        end - start for action, start, end in _cells(simulation) if action.kind is ActionKind.F
    )


def _cells(simulation: Simulation) -> Iterator[tuple[Action, float, float]]:
    for actions, starts, ends in zip(
        simulation.plan.actions, simulation.starts, simulation.ends, strict=True
    ):
        for action, start, end in zip(actions, starts, ends, strict=True):
            if action.kind in SHADES and end > start:
                yield action, start, end


class _Bands:
    """One panel's rows, its time broken into bands below each other."""

    def __init__(self, panel: Panel, top: float, scale: float, band_width: float) -> None:
        self._panel = panel
        self._plan = panel.simulation.plan
        self._top = top
        self._scale = scale
        self._width = panel.simulation.makespan_seconds * scale
        self._band_width = band_width
        self._num_bands = max(1, math.ceil(self._width / band_width - 1e-9))

    @property
    def height(self) -> float:
        """Of all bands."""
        return self._num_bands * (self._plan.num_stages * (ROW + GAP) + BAND_GAP) - BAND_GAP

    def boxes(self) -> Iterator[Box]:
        """A line under every row, and the actions; one that crosses into the next band is in both."""
        for band in range(self._num_bands):
            width = min(self._width - band * self._band_width, self._band_width)
            for stage in range(self._plan.num_stages):
                yield Box(LEFT, self._y(band, stage) + ROW, width, 0.75, "#cccccc")
        for action, start, end in _cells(self._panel.simulation):
            x, stop, key = start * self._scale, end * self._scale, str(action)
            stage, is_later = (
                self._plan.rank_of(action.virtual_stage),
                self._plan.model_part_of(action.virtual_stage),
            )
            while stop - x > 1e-6:
                band = int((x + 1e-6) // self._band_width)
                edge = min(stop, (band + 1) * self._band_width)
                place = LEFT + x - band * self._band_width
                box = _cell(action, place, self._y(band, stage), edge - x)._replace(key=key)
                yield box
                if is_later:
                    yield Box(box.x, box.y + ROW - 3.5, box.width, 3.5, "#00000066")
                x, key = edge, ""

    def words(self, right: float) -> Iterator[Word]:
        """The rows' names, and at the right of the first band their labels."""
        for band in range(self._num_bands):
            for stage, label in enumerate(self._panel.stage_labels):
                y = self._y(band, stage) + ROW * 0.68
                yield Word(MARGIN, y, f"stage {stage}")
                if band == 0:
                    yield Word(right + 8, y, label)

    def _y(self, band: int, stage: int) -> float:
        return self._top + band * (self._plan.num_stages * (ROW + GAP) + BAND_GAP) + stage * (ROW + GAP)


def _cell(action: Action, x: float, y: float, width: float) -> Box:
    shades = SHADES[action.kind]
    both, chunk = f"{action.microbatch}.{action.chunk}", str(action.chunk)
    text = both if width >= 6.2 * len(both) else chunk
    size = min(11.0, (width - 1.5) / (0.58 * len(text)))
    shade = action.microbatch % len(shades)
    return Box(
        x,
        y,
        max(width - 0.6, 0.3),
        ROW,
        shades[shade],
        key=str(action),
        text=text if size >= MIN_TEXT else "",
        text_size=round(size, 2),
        text_fill="#10202c" if shade == 2 else "#ffffff",
    )
