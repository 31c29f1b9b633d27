"""Timelines as one HTML page: zoom with the wheel, drag to move, point at an action to read it.

A picture too wide to be read opens at its beginning, at a size that can be; a double click shows all. The
page holds everything it needs, the picture being the same SVG as elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape

from megatron.seq1f1b.planning.drawing import Drawing, to_svg
from megatron.seq1f1b.planning.timeline import Panel
from megatron.seq1f1b.schedule import Action, ActionKind, Simulation, dependencies_of
from megatron.seq1f1b.schedule.dependencies import Result

_MADE_BY = {
    Result.OUTPUT: ActionKind.F,
    Result.SENT_OUTPUT: ActionKind.F,
    Result.INPUT_GRAD: ActionKind.B,
    Result.SENT_GRAD: ActionKind.B,
    Result.WEIGHT_GRAD: ActionKind.W,
}


def to_page(panels: Sequence[Panel], drawing: Drawing) -> str:
    """The page; actions of all panels share one table, looked up by panel and text."""
    told = [_told(panel.simulation) for panel in panels]
    svg = _numbered(to_svg(drawing), [len(each) for each in told])
    data = json.dumps([line for each in told for line in each]).replace("</", "<\\/")
    title = ", ".join(panel.title for panel in panels)
    heads = [f"<p><b>{escape(panel.title)}</b> {escape(panel.caption, quote=False)}</p>" for panel in panels]
    page = _PAGE.replace("@TITLE@", escape(title)).replace("@HEAD@", "\n".join(heads))
    return page.replace("@DATA@", data).replace("@SVG@", svg)


def _told(simulation: Simulation) -> list[str]:
    """What the pointer tells about every compute action, in the picture's order."""
    needs = _Needs(simulation)
    return [
        f"{action}\nstart {start:.6g} s, end {end:.6g} s, takes {end - start:.6g} s\n"
        f"needs {', '.join(needs.of(action)) or 'nothing'}"
        for rank, actions in enumerate(simulation.plan.actions)
        for action, start, end in zip(actions, simulation.starts[rank], simulation.ends[rank], strict=True)
        if action.kind.is_compute and end > start
    ]


class _Needs:
    """The actions whose results an action needs."""

    def __init__(self, simulation: Simulation) -> None:
        self._dependencies = dependencies_of(simulation.plan)
        self._actions = {action for actions in simulation.plan.actions for action in actions}

    def of(self, action: Action) -> list[str]:
        """Their texts; posted receives are left out."""
        texts = []
        for number in self._dependencies.needs_of(action):
            result, *unit = self._dependencies.describe(number)
            if result in _MADE_BY:
                maker = Action(_MADE_BY[result], *unit)
                halved = maker._replace(kind=ActionKind.I)
                texts.append(str(maker if maker in self._actions else halved))
        return texts


def _numbered(svg: str, counts: Sequence[int]) -> str:
    """The SVG with every action's box numbered by its place in the table."""
    pieces = svg.split("<title>")
    assert len(pieces) - 1 == sum(counts), "every drawn action has a line in the table"
    numbered = [pieces[0]]
    for number, piece in enumerate(pieces[1:]):
        numbered[-1] = _with_number(numbered[-1], number)
        numbered.append(piece)
    return "<title>".join(numbered)


def _with_number(piece: str, number: int) -> str:
    """Marks the rectangle that the piece ends with."""
    before, after = piece.rsplit("<rect ", 1)
    return f'{before}<rect data-action="{number}" {after}'


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>@TITLE@</title>
<style>
body { margin: 0; height: 100vh; display: flex; flex-direction: column; overflow: hidden;
       font: 13px Helvetica, Arial, sans-serif; background: #fff; }
#head { padding: 4px 12px; border-bottom: 1px solid #ccc; }
#head p { margin: 2px 0; }
#view { flex: 1; min-height: 0; cursor: grab; }
#view svg { width: 100%; height: 100%; }
#view rect[data-action]:hover { stroke: #d00000; stroke-width: 1.5; }
#tip { position: fixed; display: none; white-space: pre; background: #222; color: #fff; padding: 6px 9px;
       border-radius: 4px; pointer-events: none; }
#help { position: fixed; right: 10px; bottom: 8px; color: #666; }
</style>
</head>
<body>
<div id="head">
@HEAD@
</div>
<div id="view">@SVG@</div>
<div id="tip"></div>
<div id="help">wheel: zoom, drag: move, double click: all, or the beginning</div>
<script>
const told = @DATA@;
const svg = document.querySelector("#view svg"), tip = document.querySelector("#tip");
const whole = svg.getAttribute("viewBox").split(" ").map(Number);
const readable = Math.min(whole[2], Math.max(svg.getBoundingClientRect().width, 400));
const start = [whole[0], whole[1], readable, whole[3] * readable / whole[2]];
let view, drag = null;
svg.setAttribute("preserveAspectRatio", "xMinYMin meet");
function show(next) { view = next; svg.setAttribute("viewBox", view.join(" ")); }
show(start);
function point(event) {
  return new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
}
svg.addEventListener("wheel", event => {
  event.preventDefault();
  const at = point(event), factor = Math.exp(Math.sign(event.deltaY) * 0.25);
  if (view[2] * factor > whole[2] * 4 || view[2] * factor < 40) return;
  const x = at.x + (view[0] - at.x) * factor, y = at.y + (view[1] - at.y) * factor;
  show([x, y, view[2] * factor, view[3] * factor]);
}, { passive: false });
svg.addEventListener("pointerdown", event => { drag = point(event); });
window.addEventListener("pointerup", () => { drag = null; });
svg.addEventListener("dblclick", () => show(view[2] === whole[2] ? start : whole));
svg.addEventListener("pointermove", event => {
  if (drag) {
    const at = point(event);
    show([view[0] + drag.x - at.x, view[1] + drag.y - at.y, view[2], view[3]]);
  }
  const number = event.target.dataset ? event.target.dataset.action : undefined;
  tip.style.display = number === undefined ? "none" : "block";
  if (number !== undefined) {
    tip.textContent = told[number];
    tip.style.left = Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 8) + "px";
    tip.style.top = Math.min(event.clientY + 14, window.innerHeight - tip.offsetHeight - 8) + "px";
  }
});
svg.querySelectorAll("title").forEach(title => title.remove());
</script>
</body>
</html>
"""
