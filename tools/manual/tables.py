"""The manual's generated tables, by the name that its pages call them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

from benchmarks.dry_run import MODEL as MODEL_30B
from benchmarks.dry_run import SCHEDULES as SCHEDULES_30B
from benchmarks.dry_run import longest
from benchmarks.published_memory import CAPACITY, rows
from megatron.seq1f1b.model.flops import partition_costs
from megatron.seq1f1b.partition import partition
from megatron.seq1f1b.planning.device_costs import DeviceCosts
from megatron.seq1f1b.planning.devices import load_device
from megatron.seq1f1b.planning.memory_report import ALLOCATOR_OVERHEAD
from megatron.seq1f1b.planning.models import named_model
from megatron.seq1f1b.schedule import Plan, make_plan, simulate, unit_costs, with_communication

STAGES = 8
CHUNKS = (2, 4, 8, 16)
PICTURED = (
    ("1f1b", 1, 1),
    ("interleaved", 1, 2),
    ("seq1f1b", 4, 1),
    ("seq1f1b-interleaved", 4, 2),
    ("seq1f1b-zb", 4, 1),
)


def table(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [header, ["---"] * len(header), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def schedules() -> str:
    """Bubble and peak of what the pictures show."""
    body = []
    for name, chunks, virtual in PICTURED:
        plan = make_plan(name, stages=4, microbatches=4, chunks=chunks, virtual_stages=virtual)
        simulation = simulate(plan, unit_costs(plan))
        peaks = ", ".join(f"{peak:.4g}" for peak in simulation.peak_activation_microbatches_per_stage)
        body.append([f"`{name}`", str(chunks), str(virtual), f"{simulation.bubble_fraction:.1%}", peaks])
    return table(["schedule", "k", "v", "bubble", "peak of stages 0 to 3, in sequences"], body)


def pays() -> str:
    """Predicted step of 1F1B over that of Seq1F1B."""
    return f"{_speedups('7b', 32768, tensor_parallel=4)}\n\n{_speedups('7b', 131072, tensor_parallel=8)}"


@cache
def _plan(schedule: str, microbatches: int, chunks: int) -> Plan:
    """With its messages; all lengths share it."""
    return with_communication(make_plan(schedule, stages=STAGES, microbatches=microbatches, chunks=chunks))


def _speedups(name: str, seq_length: int, *, tensor_parallel: int) -> str:
    memory = named_model(name).memory(tensor_parallel=tensor_parallel)
    device = DeviceCosts(device=load_device("a100"), memory=memory)
    layers = (memory.dimensions.num_layers // STAGES,) * STAGES

    def seconds(schedule: str, microbatches: int, chunks: int) -> float:
        boundaries = partition(
            "uniform_comp",
            seq_length=seq_length,
            chunks=chunks,
            multiple_of=tensor_parallel,
            **partition_costs(memory.dimensions),
        )
        costs = device.costs(boundaries, layers_of_virtual_stages=layers)
        return simulate(_plan(schedule, microbatches, chunks), costs).makespan_seconds

    body = []
    for times in (1, 2, 4, 8):
        whole = seconds("1f1b", times * STAGES, 1)
        cells = [f"{whole / seconds('seq1f1b', times * STAGES, chunks):.2f}" for chunks in CHUNKS]
        body.append([f"m = {times}p" if times > 1 else "m = p", *cells])
    header = [f"{name.upper()}, {seq_length // 1024}K tokens", *(f"k = {chunks}" for chunks in CHUNKS)]
    return table(header, body)


def published_memory() -> str:
    """Every published cell beside the estimate."""
    header = (
        "model",
        "tokens",
        "schedule",
        "published",
        "here",
        "",
        "as the public code holds K/V",
        "off by",
    )
    return table(header, rows(ALLOCATOR_OVERHEAD))


def longest_sequences() -> str:
    """Of the 30B model on 64 GPUs with 80 GB, by schedule."""
    body = [
        [f"`{schedule}`", f"{longest([*MODEL_30B, *flags], memory_gb=CAPACITY) // 1024}K"]
        for schedule, flags in SCHEDULES_30B.items()
    ]
    return table(["schedule", f"longest sequence below {CAPACITY:g} GB"], body)


TABLES: dict[str, Callable[[], str]] = {
    "schedules": schedules,
    "pays": pays,
    "published_memory": published_memory,
    "longest_sequences": longest_sequences,
}
