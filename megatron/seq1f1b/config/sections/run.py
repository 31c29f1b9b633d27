"""Where a run writes, and how often it reports."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Run: where its files go."""

    run_dir: str | None = None
    """Folder of the resolved configuration and metrics.jsonl; a new one below runs/."""
