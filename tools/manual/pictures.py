"""The manual's pictures of schedules and of memory, by file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from benchmarks.published_memory import CAPACITY, MODELS, SCHEDULES, estimated_gb, memory_of
from megatron.seq1f1b.model.memory import KVHolding
from megatron.seq1f1b.planning.devices import load_device
from megatron.seq1f1b.planning.drawing import to_svg
from megatron.seq1f1b.planning.memory_report import ALLOCATOR_OVERHEAD
from megatron.seq1f1b.planning.models import named_model
from megatron.seq1f1b.planning.shown import show_model, show_units
from megatron.seq1f1b.planning.timeline import Panel, draw
from megatron.seq1f1b.schedule import make_plan
from tools.manual.bars import Bar, bar_chart

UNITS = "a sequence's forward takes 1 s on a stage without virtual stages"
TITLES = {
    "1f1b": "1F1B, whole sequences",
    "seq1f1b": "Seq1F1B",
    "interleaved": "interleaved 1F1B",
    "seq1f1b-interleaved": "interleaved Seq1F1B",
    "seq1f1b-zb": "Seq1F1B with zero bubble",
}


def _timelines(
    *schedules: str, stages: int = 4, microbatches: int = 4, chunks: int = 4, virtual_stages: int = 1
) -> str:
    """Schedules doing the same work, on one scale of time."""
    return to_svg(
        draw([_panel(schedule, stages, microbatches, chunks, virtual_stages) for schedule in schedules])
    )


def _panel(schedule: str, stages: int, microbatches: int, chunks: int, virtual_stages: int) -> Panel:
    chunks = chunks if schedule.startswith("seq1f1b") else 1
    virtual = virtual_stages if schedule.endswith("interleaved") else 1
    plan = make_plan(
        schedule, stages=stages, microbatches=microbatches, chunks=chunks, virtual_stages=virtual
    )
    unit = 1.0 / (chunks * virtual)
    shown = show_units(plan, forward_seconds=unit, backward_seconds=2 * unit, costs=UNITS)
    title = TITLES[schedule] + (f", {chunks} chunks" if chunks > 1 else "")
    return replace(shown.to_panel(), title=title)


def _balance() -> str:
    """A model whose attention weighs much, cut evenly and balanced."""
    plan = make_plan("seq1f1b", stages=4, microbatches=4, chunks=4)
    titles = {"average": "even chunks", "uniform_comp": "chunks of equal computation"}
    panels = []
    for strategy, title in titles.items():
        shown = show_model(
            plan,
            model=named_model("7b"),
            device=load_device("a100"),
            seq_length=131072,
            tensor_parallel=8,
            strategy=strategy,
        )
        panels.append(replace(shown.to_panel(), title=f"7B, 128K tokens, {title}"))
    return to_svg(draw(panels))


def _memory() -> str:
    """The estimate beside the published bars."""
    bars = []
    for model in MODELS:
        memory = memory_of(model, KVHolding.IN_PLACE)
        for length, published in model.bars.items():
            for schedule, reported in zip(SCHEDULES, published, strict=True):
                value = estimated_gb(memory, schedule, length * 1024, overhead=ALLOCATOR_OVERHEAD)
                label = f"{model.name} {length}K {schedule}"
                bars.append(Bar(label=label, values=(reported, value)))
    return to_svg(
        bar_chart(
            "Peak memory of the worst stage, GB",
            bars,
            names=("published", "estimated here"),
            limit=CAPACITY,
            limit_name="80 GB",
            missing="out of memory",
        )
    )


PICTURES: dict[str, Callable[[], str]] = {
    "timelines.svg": lambda: _timelines("1f1b", "seq1f1b"),
    "pictures/interleaved.svg": lambda: _timelines("interleaved", "seq1f1b-interleaved", virtual_stages=2),
    "pictures/zero_bubble.svg": lambda: _timelines("seq1f1b", "seq1f1b-zb"),
    "pictures/balance.svg": _balance,
    "pictures/memory.svg": _memory,
}
