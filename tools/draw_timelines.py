"""Draw 1F1B and Seq1F1B on one time scale: the picture in the README, from the plans themselves.

python tools/draw_timelines.py --output docs/timelines.svg
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from megatron.seq1f1b.schedule import ActionKind, Simulation, make_plan, simulate, unit_costs

WIDTH, LEFT, ROW, GAP = 960.0, 62.0, 24.0, 3.0
HEADING, MARGIN = 30.0, 12.0
HUES = {ActionKind.F: (206, 62), ActionKind.B: (150, 48)}
"""Hue and saturation of forward and backward; a microbatch's parity sets the lightness."""

Panel = tuple[str, Simulation]


def main() -> int:
    """Read the command line, write the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="the SVG file to write")
    parser.add_argument("--stages", type=int, default=4, help="pipeline stages")
    parser.add_argument("--microbatches", type=int, default=4, help="microbatches of the step")
    parser.add_argument("--chunks", type=int, default=4, help="chunks of each sequence with Seq1F1B")
    arguments = parser.parse_args()
    picture = drawing(stages=arguments.stages, microbatches=arguments.microbatches, chunks=arguments.chunks)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(picture)
    print(f"{arguments.output}: {len(picture)} bytes")
    return 0


def drawing(*, stages: int, microbatches: int, chunks: int) -> str:
    """An SVG of both schedules for the same work; a whole microbatch's forward takes one unit."""
    panels = [
        (f"1F1B: {microbatches} sequences, whole", "1f1b", 1),
        (f"Seq1F1B: the same sequences in {chunks} chunks", "seq1f1b", chunks),
    ]
    simulated: list[Panel] = []
    for title, name, count in panels:
        plan = make_plan(name, stages=stages, microbatches=microbatches, chunks=count)
        unit = 1.0 / count
        costs = unit_costs(plan, forward_seconds=unit, input_grad_seconds=unit, weight_grad_seconds=unit)
        simulated.append((title, simulate(plan, costs)))
    scale = (WIDTH - LEFT - MARGIN) / max(each.makespan_seconds for _, each in simulated)
    height_of_panel = HEADING + stages * (ROW + GAP) + MARGIN
    height = MARGIN + len(simulated) * height_of_panel
    size = f'viewBox="0 0 {WIDTH:g} {height:g}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH:g}" height="{height:g}" fill="white"/>',
    ]
    for number, (title, simulation) in enumerate(simulated):
        lines += _panel(title, simulation, top=MARGIN + number * height_of_panel, scale=scale)
    return "\n".join([*lines, "</svg>", ""])


def _panel(title: str, simulation: Simulation, *, top: float, scale: float) -> list[str]:
    peak = max(simulation.peak_activation_microbatches_per_stage)
    facts = f"bubble {simulation.bubble_fraction:.0%}, at most {peak:g} sequences' activations on a stage"
    lines = [
        f'<text x="{MARGIN:g}" y="{top + 16:g}"><tspan font-weight="bold">{title}</tspan>: {facts}</text>'
    ]
    for stage, actions in enumerate(simulation.plan.actions):
        y = top + HEADING + stage * (ROW + GAP)
        lines.append(f'<text x="{MARGIN:g}" y="{y + 16:g}">stage {stage}</text>')
        place = f'x="{LEFT:g}" y="{y:g}" width="{WIDTH - LEFT - MARGIN:g}" height="{ROW:g}"'
        lines.append(f'<rect {place} fill="#f1f1f1"/>')
        times = zip(actions, simulation.starts[stage], simulation.ends[stage], strict=True)
        for action, start, end in times:
            hue, saturation = HUES[action.kind]
            lightness = 64 if action.microbatch % 2 else 52
            x, width = LEFT + start * scale, (end - start) * scale
            lines.append(
                f'<rect x="{x:.2f}" y="{y:g}" width="{width:.2f}" height="{ROW:g}" stroke="white" '
                f'fill="hsl({hue},{saturation}%,{lightness}%)"><title>{action}</title></rect>'
            )
            lines.append(_label(action.microbatch, action.chunk, x + width / 2, y + 16, width))
    return [line for line in lines if line]


def _label(microbatch: int, chunk: int, x: float, y: float, width: float) -> str:
    """The microbatch's number, once for all its chunks, where it fits."""
    if width < 12 or chunk > 0:
        return ""
    return f'<text x="{x:.2f}" y="{y:g}" fill="white" text-anchor="middle">{microbatch}</text>'


if __name__ == "__main__":
    sys.exit(main())
