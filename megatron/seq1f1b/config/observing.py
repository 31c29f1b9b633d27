"""What a run measures of itself: options that its length cannot serve."""

from __future__ import annotations

from megatron.seq1f1b.config.options import RunOptions
from megatron.seq1f1b.errors import ConfigurationError

TIMELINE_WARMUP_STEPS = 2
"""Steps before the first timed one: they make caches, connections and optimizer states."""


def check_observing(options: RunOptions, *, train_iters: int) -> None:
    """Refuse a timeline that the run's steps do not suffice for.

    Raises:
        ConfigurationError: with the numbers.
    """
    timed, most = options.timeline, train_iters - TIMELINE_WARMUP_STEPS
    if timed is not None and timed > most:
        use = f"use at most {most}, or more steps" if most > 0 else "train more steps, or leave it out"
        raise ConfigurationError(
            f"--timeline {timed} times {timed} steps after {TIMELINE_WARMUP_STEPS} that are not timed, and "
            f"the run has {train_iters}; {use}"
        )
