"""Where a run writes, what it measures and checks of itself, and when it ends early."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Run: where its files go, what it checks of itself, and when it ends early."""

    run_dir: str | None = None
    """Folder of the resolved configuration and metrics.jsonl; a new one below runs/."""
    timeline: int | None = None
    """Time every action of so many steps after the first two; timeline.json and .svg in --run-dir."""
    parity_check: int | None = None
    """Before training, compare losses and gradients of so many steps with those of unchunked 1F1B."""
    parity_tolerance: float | None = None
    """Largest relative difference of a gradient; 1e-4 in fp32, 1e-2 in fp16, 5e-2 in bf16."""
    manual_gc: bool = False
    """Collect Python's garbage on all processes at the same time, instead of whenever one has much."""
    manual_gc_interval: int = 0
    """With --manual-gc: steps between collections; 0 for none."""
    manual_gc_eval: bool = True
    """With --manual-gc: collect young objects before and after every validation, too."""
    exit_interval: int | None = None
    """Save and end after a step that is a multiple of this."""
    exit_duration_in_mins: int | None = None
    """Save and end after so many minutes."""
    exit_signal_handler: bool = False
    """Save and end after SIGTERM, SIGINT or SIGUSR1."""
