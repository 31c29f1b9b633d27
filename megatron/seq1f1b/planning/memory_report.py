"""What each stage of a run will hold at its peak: one report for estimate and dry run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

ALLOCATOR_OVERHEAD = 1.05
"""Reserved over live bytes: what PyTorch's caching allocator keeps beyond what tensors hold. A stated
assumption: with this one factor the estimate meets the published bars (benchmarks/published_memory.py)."""

GIB = 2**30


@dataclass(frozen=True, kw_only=True, slots=True)
class StageMemory:
    """Live bytes of a stage's worst rank at its peak."""

    stage: int
    parameters_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    """Saved for backward, and what the action at the peak holds on top."""
    kv_cache_bytes: int
    dkv_bytes: int
    """The accumulators of gradients of keys and values."""
    logits_bytes: int
    communication_bytes: int
    peak_action: str
    """The action during which the peak occurs."""
    by_action: Mapping[str, int] = field(default_factory=dict)
    """The most that is live beside parameters and optimizer during every action."""

    @property
    def live_bytes(self) -> int:
        """The sum of all that is live at the peak."""
        return (
            self.parameters_bytes
            + self.gradients_bytes
            + self.optimizer_bytes
            + self.activations_bytes
            + self.kv_cache_bytes
            + self.dkv_bytes
            + self.logits_bytes
            + self.communication_bytes
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryReport:
    """All stages of a run."""

    stages: Sequence[StageMemory]
    allocator_overhead: float = ALLOCATOR_OVERHEAD
    has_experts: bool = False

    def peak_bytes(self, stage: StageMemory) -> int:
        """What the allocator will have reserved on a stage."""
        return round(stage.live_bytes * self.allocator_overhead)

    @property
    def worst_peak_bytes(self) -> int:
        """Of the stage that needs most."""
        return max(map(self.peak_bytes, self.stages))

    def to_json(self) -> str:
        """One object; `kv_cache_bytes` holds keys, values and their gradients."""
        stages = [
            {
                "stage": stage.stage,
                "parameters_bytes": stage.parameters_bytes,
                "gradients_bytes": stage.gradients_bytes,
                "optimizer_bytes": stage.optimizer_bytes,
                "activations_bytes": stage.activations_bytes,
                "kv_cache_bytes": stage.kv_cache_bytes + stage.dkv_bytes,
                "logits_bytes": stage.logits_bytes,
                "communication_bytes": stage.communication_bytes,
                "peak_bytes": self.peak_bytes(stage),
                "peak_action": stage.peak_action,
            }
            for stage in self.stages
        ]
        return json.dumps({"stages": stages, "allocator_overhead": self.allocator_overhead})

    def to_table(self) -> str:
        """GiB per stage, one row each, and what was assumed."""
        header = ("stage", *_COLUMNS, "peak", "at")
        rows = [
            (
                str(stage.stage),
                *(f"{getattr(stage, name) / GIB:.2f}" for name in _COLUMNS.values()),
                f"{self.peak_bytes(stage) / GIB:.2f}",
                stage.peak_action,
            )
            for stage in self.stages
        ]
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        lines = [
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
            for row in (header, *rows)
        ]
        worst = max(self.stages, key=self.peak_bytes)
        assumed = (
            f"GiB on the worst rank of each stage; peak = sum x {self.allocator_overhead:g} "
            "(assumed overhead of the caching allocator; the CUDA context comes on top)"
        )
        if self.has_experts:
            assumed += "\nexperts are assumed to get equally many tokens"
        peak = self.peak_bytes(worst)
        most = f"most on stage {worst.stage}: {peak / GIB:.2f} GiB = {peak / 1e9:.2f} GB"
        return "\n".join([*lines, "", assumed, most])


_COLUMNS = {
    "parameters": "parameters_bytes",
    "gradients": "gradients_bytes",
    "optimizer": "optimizer_bytes",
    "activations": "activations_bytes",
    "KV": "kv_cache_bytes",
    "dKV": "dkv_bytes",
    "logits": "logits_bytes",
    "messages": "communication_bytes",
}
