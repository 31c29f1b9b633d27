"""What a run measures and checks of itself: options that cannot be served by its length."""

from __future__ import annotations

from megatron.seq1f1b.config.options import RunOptions
from megatron.seq1f1b.errors import ConfigurationError

TIMELINE_WARMUP_STEPS = 2
"""Steps before the first timed one: they make caches, connections and optimizer states."""


def check_observing(options: RunOptions, *, train_iters: int) -> None:
    """Refuse timelines and parity checks that the run's steps do not suffice for.

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
    checked = options.parity_check
    if checked is not None and checked > train_iters:
        raise ConfigurationError(
            f"--parity-check {checked} needs the data of {checked} steps, and the run has {train_iters}; "
            f"use at most {train_iters}"
        )
    if options.parity_tolerance is not None and checked is None:
        raise ConfigurationError(
            f"--parity-tolerance {options.parity_tolerance:g} means nothing without --parity-check"
        )
