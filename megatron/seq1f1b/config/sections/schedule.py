"""In which order chunks of microbatches pass the stages."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ScheduleOptions:
    """Schedule: in which order chunks of microbatches pass the stages."""

    pipeline_schedule: str | None = None
    """1f1b, interleaved, seq1f1b, seq1f1b-interleaved, seq1f1b-zb or plan.csv; left out, chunks and
    virtual stages decide."""
    pipe_sp_splits: int = 1
    """Chunks per sequence, k."""
    pipe_sp_strategy: str = "uniform_comp"
    """average: even chunks; uniform_comp: of even computation; profiled: measured at start."""
    zero_bubble_max_pending_weight_grads: int | None = None
    """Most weight gradients that a stage of seq1f1b-zb puts off; stage s puts off s."""
