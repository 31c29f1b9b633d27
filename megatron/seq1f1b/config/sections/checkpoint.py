"""Saving, loading and resuming."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """Checkpoints: what is saved where, and what a run starts from."""

    save: str | None = None
    """Folder that checkpoints are written to."""
    save_interval: int | None = None
    """Steps between checkpoints; only one at the end of the run."""
    async_save: bool = False
    """Write checkpoints while training goes on, from a copy in host memory."""
    keep_latest: int | None = None
    """How many checkpoints to keep; all."""
    no_save_optim: bool = False
    """Leave the optimizer's state out of checkpoints."""
    no_save_rng: bool = False
    """Leave the random states out of checkpoints."""
    load: str | None = None
    """Folder to resume from, or to start anew where it holds no checkpoint."""
    ckpt_step: int | None = None
    """Load the checkpoint of this step; the latest."""
    finetune: bool = False
    """Take the weights alone, and start at step 0."""
    no_load_optim: bool = False
    """Start with a new optimizer state."""
    no_load_rng: bool = False
    """Start with new random states."""
    exit_on_missing_checkpoint: bool = False
    """Refuse to start anew where --load holds no checkpoint."""
