"""Pictures, traces and pages of simulated plans."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from megatron.seq1f1b.errors import ConfigurationError
from megatron.seq1f1b.planning.drawing import Drawing, to_svg
from megatron.seq1f1b.planning.page import to_page
from megatron.seq1f1b.planning.png import to_png
from megatron.seq1f1b.planning.shown import show_units
from megatron.seq1f1b.planning.timeline import MIN_TEXT, UNBROKEN, Panel, draw
from megatron.seq1f1b.planning.trace import to_trace
from megatron.seq1f1b.schedule import add_communication, make_plan

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def panel(name: str, *, stages: int = 4, microbatches: int = 4, chunks: int = 4, virtual: int = 1) -> Panel:
    plan = make_plan(name, stages=stages, microbatches=microbatches, chunks=chunks, virtual_stages=virtual)
    return show_units(plan, forward_seconds=1.0, backward_seconds=2.0, costs="").to_panel()


def drawn(*panels: Panel) -> Drawing:
    return draw(panels)


def test_every_action_is_drawn_once_where_it_happens() -> None:
    one = panel("seq1f1b-zb")
    boxes = [box for box in draw([one], band_width=UNBROKEN).boxes if box.key]
    plan = one.simulation.plan
    assert sorted(box.key for box in boxes) == sorted(str(a) for actions in plan.actions for a in actions)
    by_key = {box.key: box for box in boxes}
    assert by_key["0F0.1"].x > by_key["0F0.0"].x
    assert by_key["1F0.0"].y > by_key["0F0.0"].y


def test_the_largest_picture_stays_legible() -> None:
    picture = drawn(panel("seq1f1b", stages=8, microbatches=16, chunks=8))
    labelled = [box for box in picture.boxes if box.key]
    assert picture.width < 2000
    assert all(box.text for box in labelled if box.width > 8)
    assert all(box.text_size >= MIN_TEXT for box in labelled if box.text)
    assert sum(bool(box.text) for box in labelled) > 0.97 * len(labelled)


def test_microbatches_next_to_each_other_differ_in_shade() -> None:
    fills = {box.key: box.fill for box in drawn(panel("seq1f1b")).boxes if box.key}
    assert len({fills[f"0F{microbatch}.0"] for microbatch in range(4)}) == 4
    assert fills["0F0.0"] != fills["0B0.0"]


def test_the_svg_is_well_formed_and_captioned() -> None:
    svg = to_svg(drawn(panel("seq1f1b"), panel("seq1f1b-interleaved", virtual=2)))
    texts = [element.text for element in ET.fromstring(svg).iter() if element.text]
    assert "bubble 15.8 %, peak memory 1.75 microbatches' activations on stage 0, step 57 s" in texts
    assert any("2 virtual stages" in text for text in texts)


def test_the_png_is_one_or_names_the_extra() -> None:
    pytest.importorskip("matplotlib")
    assert to_png(drawn(panel("1f1b", chunks=1))).startswith(b"\x89PNG")


def test_the_trace_has_a_thread_per_stage_and_every_action() -> None:
    plan = add_communication(make_plan("seq1f1b", stages=2, microbatches=2, chunks=2))
    shown = show_units(plan, forward_seconds=1e-3, backward_seconds=2e-3, costs="")
    events = json.loads(to_trace(shown.simulation, name="seq1f1b"))["traceEvents"]
    threads = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert threads == {0: "stage 0", 1: "stage 1"}
    timed = {event["name"]: event for event in events if event["ph"] == "X"}
    assert len(timed) == 16
    assert timed["1F0.0"]["ts"] == pytest.approx(1000.0)
    assert timed["0B0.0"]["dur"] == pytest.approx(2000.0)
    assert "0SEND_F0.0" in {event["name"] for event in events if event["ph"] == "i"}


def test_the_page_needs_nothing_from_elsewhere_and_tells_of_dependencies() -> None:
    panels = [panel("seq1f1b"), panel("seq1f1b-zb")]
    page = to_page(panels, draw(panels, band_width=UNBROKEN))
    assert not re.search(r"(src|href)=|@import|url\(", page)
    found = re.search(r"const told = (\[.*\]);", page)
    assert found is not None
    assert all(f"<b>{each.title}</b> {each.caption}" in page for each in panels)
    told = json.loads(found.group(1))
    assert len(told) == len(re.findall("data-action=", page))
    of_forward = next(line for line in told if line.startswith("1F0.1\n"))
    assert of_forward.splitlines()[2] == "needs 0F0.1, 1F0.0"
    of_split = next(line for line in told if line.startswith("1I0.0\n"))
    assert of_split.splitlines()[2] == "needs 1F0.0, 2I0.0, 1I0.1"


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_page_works_in_a_browser(tmp_path: Path) -> None:
    """It opens legibly; pointing tells of an action, the wheel zooms, double clicks show all."""
    panels = [panel("seq1f1b", stages=8, microbatches=16, chunks=8)]
    page = to_page(panels, draw(panels, band_width=UNBROKEN))
    script = """
    <script>
    const box = document.querySelector('rect[data-action="2"]'), place = box.getBoundingClientRect();
    const large = place.width > 8;
    const at = { clientX: place.x + 2, clientY: place.y + 2, bubbles: true, cancelable: true };
    box.dispatchEvent(new PointerEvent("pointermove", at));
    const shown = tip.style.display + "|" + tip.textContent.split("\\n")[0];
    box.dispatchEvent(new WheelEvent("wheel", { ...at, deltaY: -1 }));
    const zoomed = box.getBoundingClientRect().width > place.width;
    box.dispatchEvent(new MouseEvent("dblclick", at));
    const last = [...document.querySelectorAll("rect[data-action]")].pop();
    const all = last.getBoundingClientRect().right < window.innerWidth;
    box.dispatchEvent(new MouseEvent("dblclick", at));
    const back = Math.abs(box.getBoundingClientRect().width - place.width) < 0.01;
    document.title = [large, shown, zoomed, all, back].join("|");
    </script></body>"""
    path = tmp_path / "page.html"
    path.write_text(page.replace("</body>", script))
    done = subprocess.run(
        [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    title = re.search("<title>(.*)</title>", done.stdout)
    assert title is not None, done.stderr
    assert title.group(1) == "true|block|0F0.2|true|true|true"


def test_a_missing_matplotlib_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(ConfigurationError, match="install the viz extra"):
        to_png(drawn(panel("seq1f1b")))
