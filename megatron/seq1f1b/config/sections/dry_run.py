"""Asking what a run would need instead of running it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class DryRunOptions:
    """Dry run: check everything and count memory, on any machine, instead of training."""

    dry_run: bool = False
    """Check the run and say what every stage will hold; needs neither GPUs nor other processes."""
    world_size: int | None = None
    """With --dry-run: processes of the run; torchrun's, else as many as its model parallelism needs."""
    format: Literal["table", "json"] | None = None
    """With --dry-run: how to print it; table."""
    allocator_overhead: float | None = None
    """With --dry-run: reserved over live bytes, an assumption; 1.05."""
