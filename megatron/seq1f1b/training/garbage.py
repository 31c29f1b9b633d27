"""When Python's garbage is collected: whenever it likes, or on every process after the same steps.

A collection takes long where there are many objects, and a process that collects in the middle of a
step keeps all its peers waiting, each time another. With `--manual-gc` they pause together.
"""

from __future__ import annotations

import gc

from megatron.seq1f1b.config import Config


class Garbage:
    """The collections of one run."""

    def __init__(self, config: Config) -> None:
        self._options = config.run
        if self._options.manual_gc:
            gc.collect()
            gc.disable()

    def after_step(self, iteration: int) -> None:
        """Collect where `--manual-gc-interval` says so."""
        interval = self._options.manual_gc_interval
        if self._options.manual_gc and interval and iteration % interval == 0:
            gc.collect()

    def beside_validation(self) -> None:
        """Collect the young objects before and after a validation."""
        if self._options.manual_gc and self._options.manual_gc_eval:
            gc.collect(generation=0)

    def close(self) -> None:
        """Python collects by itself again."""
        gc.enable()
