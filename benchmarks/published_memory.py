"""The memory estimate beside the published bars of Seq1F1B's paper: every cell, hits and misses.

    python benchmarks/published_memory.py [--overhead X]

Peak memory per GPU of the worst stage, in GB of 10^9 bytes, for 2.7B on 8 and 30B on 64 A100s with
80 GB: 16 microbatches of one sequence, 4 chunks, 2 virtual stages where interleaved, no
recomputation, 18 bytes per parameter. One allocator overhead stands for the whole table: published
is what PyTorch's allocator had reserved. Seq1F1B is estimated twice: as it is here (keys and values
once, in place) and as the public code holds them (every chunk its own and the concatenation of all
before it).
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from megatron.seq1f1b.model.flops import ModelDimensions, partition_costs
from megatron.seq1f1b.model.memory import KVHolding, ModelMemory
from megatron.seq1f1b.partition import partition
from megatron.seq1f1b.planning.estimate import estimate
from megatron.seq1f1b.planning.memory_report import ALLOCATOR_OVERHEAD
from megatron.seq1f1b.schedule import Plan, add_communication, make_plan

STAGES, MICROBATCHES, CHUNKS, VIRTUAL_STAGES = 8, 16, 4, 2
CAPACITY = 80.0
SCHEDULES = ("1f1b", "interleaved", "seq1f1b", "seq1f1b-interleaved")


@dataclass(frozen=True, kw_only=True)
class Published:
    """A model and its bars: sequence length in K tokens to GB per schedule; None is out of memory."""

    name: str
    num_layers: int
    hidden_size: int
    num_heads: int
    tensor_parallel: int
    bars: dict[int, tuple[float | None, ...]]


MODELS = (
    Published(
        name="2.7B",
        num_layers=32,
        hidden_size=2560,
        num_heads=32,
        tensor_parallel=1,
        bars={16: (51.4, 71.0, 29.8, 29.7), 24: (74.3, None, 41.5, 41.9), 32: (None, None, 53.1, 54.5)},
    ),
    Published(
        name="30B",
        num_layers=64,
        hidden_size=6144,
        num_heads=64,
        tensor_parallel=8,
        bars={32: (71.4, None, 37.6, 38.6), 48: (None, None, 54.7, 55.5), 64: (None, None, 67.5, 66.9)},
    ),
)


def memory_of(model: Published, kv_holding: KVHolding) -> ModelMemory:
    """GELU, LayerNorm, rotary positions, untied head, GPT-2's vocabulary."""
    multiple = 128 * model.tensor_parallel
    dimensions = ModelDimensions(
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        ffn_hidden_size=4 * model.hidden_size,
        num_query_heads=model.num_heads,
        num_query_groups=model.num_heads,
        head_dim=model.hidden_size // model.num_heads,
        is_gated=False,
        padded_vocab_size=-(-50257 // multiple) * multiple,
    )
    return ModelMemory(
        dimensions=dimensions,
        tensor_parallel=model.tensor_parallel,
        is_sequence_parallel=model.tensor_parallel > 1,
        rotary_dim=dimensions.head_dim,
        kv_holding=kv_holding,
    )


@cache
def plan_of(schedule: str) -> Plan:
    """With its messages; the lengths of a model share it."""
    virtual = VIRTUAL_STAGES if schedule.endswith("interleaved") else 1
    chunks = CHUNKS if schedule.startswith("seq1f1b") else 1
    return add_communication(
        make_plan(schedule, stages=STAGES, microbatches=MICROBATCHES, chunks=chunks, virtual_stages=virtual)
    )


@cache
def estimated_gb(memory: ModelMemory, schedule: str, seq_length: int, *, overhead: float) -> float:
    """Reserved by the worst stage."""
    plan = plan_of(schedule)
    boundaries = partition(
        "uniform_comp",
        seq_length=seq_length,
        chunks=plan.num_chunks,
        multiple_of=memory.tensor_parallel,
        **partition_costs(memory.dimensions),
    )
    parts = plan.num_all_virtual_stages
    report = estimate(
        memory,
        plan,
        boundaries,
        layers_of_virtual_stages=[memory.dimensions.num_layers // parts] * parts,
        allocator_overhead=overhead,
    )
    return report.worst_peak_bytes / 1e9


def judge(published: float | None, estimated: float, *, is_ours: bool) -> str:
    """Whether a cell is as it should be, in words."""
    if published is None:
        return "over 80 GB, as published" if estimated > CAPACITY else "MISS: published out of memory"
    share = f"{estimated / published - 1:+.0%}"
    if is_ours:
        return f"{share}, at or below" if estimated <= published else f"{share}, MISS: above"
    return share


def rows(overhead: float) -> list[tuple[str, ...]]:
    """Model, length, schedule, published, estimate, verdict, estimate of the public holding, its share."""
    table: list[tuple[str, ...]] = []
    for model in MODELS:
        memory = memory_of(model, KVHolding.IN_PLACE)
        public = replace(memory, kv_holding=KVHolding.CONCATENATED)
        for length, bars in model.bars.items():
            for schedule, published in zip(SCHEDULES, bars, strict=True):
                is_ours = schedule.startswith("seq1f1b")
                value = estimated_gb(memory, schedule, length * 1024, overhead=overhead)
                cells = ("", "")
                if is_ours and published is not None:
                    theirs = estimated_gb(public, schedule, length * 1024, overhead=overhead)
                    cells = f"{theirs:.1f}", f"{theirs / published - 1:+.0%}"
                shown = "OOM" if published is None else f"{published:.1f}"
                verdict = judge(published, value, is_ours=is_ours)
                table.append((model.name, f"{length}K", schedule, shown, f"{value:.1f}", verdict, *cells))
    return table


def longest(model: Published, schedule: str, *, overhead: float) -> int:
    """The longest sequence that fits, in whole K tokens."""
    memory, fits, too_long = memory_of(model, KVHolding.IN_PLACE), 0, 4096
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if estimated_gb(memory, schedule, middle * 1024, overhead=overhead) <= CAPACITY:
            fits = middle
        else:
            too_long = middle
    return fits


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--overhead", type=float, default=ALLOCATOR_OVERHEAD, help="reserved over live bytes")
    overhead = parser.parse_args().overhead
    header = ("model", "length", "schedule", "published", "estimate", "verdict", "public K/V", "off by")
    table = [header, *rows(overhead)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(f"GB = 10^9 bytes; allocator overhead {overhead:g} in every cell")
    print(f"\nlongest sequence below {CAPACITY:g} GB (estimated):")
    for model in MODELS:
        lengths = [f"{name} {longest(model, name, overhead=overhead)}K" for name in SCHEDULES]
        print(f"{model.name}: {', '.join(lengths)}")


if __name__ == "__main__":
    main()
