"""When a run stops before its last step, and what it leaves for who started it.

A run that stops on purpose ends with status 0 and a `stopped.json` in its folder: torchrun turns
every other status into 1, and may start the processes again.
"""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

import torch
import torch.distributed as dist

from megatron.seq1f1b.config import Config

FILE = "stopped.json"
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_ONE_REQUEST_SECONDS = 3.0
"""A terminal's Ctrl-C reaches a process twice: from the terminal, and through torchrun."""
_CAUSES = ("", "termination", "interrupt", "duration", "interval")
"""By rank: where processes have different ones, the last counts."""
_REASONS = {"termination": "signal", "interrupt": "signal"}
_REQUEUED = ("termination", "duration")
"""What ends a run whose owner wants it to go on; who presses Ctrl-C or gives an interval does not."""


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Why a run stopped."""

    reason: str
    """`interval`, `duration` or `signal`."""
    iteration: int
    requeue: bool
    """Whether steps are left that another start would train."""

    def write(self, run_dir: Path) -> None:
        """Leave stopped.json."""
        (run_dir / FILE).write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")


class StopRequests:
    """Collects the reasons to stop; processes agree on one after every step."""

    def __init__(self, config: Config, *, train_iters: int) -> None:
        self._options = config.run
        self._train_iters = train_iters
        self._started_at = time.monotonic()
        self._signal: int | None = None
        self._signalled_at = 0.0
        if self._options.exit_signal_handler:
            for number in _SIGNALS:
                signal.signal(number, self._on_signal)

    @property
    def is_possible(self) -> bool:
        """Whether this run may stop at all before its end."""
        options = self._options
        return (
            options.exit_signal_handler
            or options.exit_interval is not None
            or options.exit_duration_in_mins is not None
        )

    def after(self, iteration: int) -> Stop | None:
        """The reason to stop after a step, equal on every process; None to go on."""
        if not self.is_possible:
            return None
        own = torch.tensor(_CAUSES.index(self._cause(iteration)), device=torch.cuda.current_device())
        dist.all_reduce(own, op=dist.ReduceOp.MAX)
        cause = _CAUSES[int(own)]
        if not cause:
            return None
        is_wanted_again = iteration < self._train_iters and cause in _REQUEUED
        return Stop(reason=_REASONS.get(cause, cause), iteration=iteration, requeue=is_wanted_again)

    def _cause(self, iteration: int) -> str:
        options = self._options
        if options.exit_interval is not None and iteration % options.exit_interval == 0:
            return "interval"
        minutes = (time.monotonic() - self._started_at) / 60
        if options.exit_duration_in_mins is not None and minutes > options.exit_duration_in_mins:
            return "duration"
        if self._signal is None:
            return ""
        return "interrupt" if self._signal == signal.SIGINT else "termination"

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None:
            if time.monotonic() - self._signalled_at > _ONE_REQUEST_SECONDS:
                # Whoever sent it again will not wait for a checkpoint.
                os._exit(128 + number)
            return
        self._signal, self._signalled_at = number, time.monotonic()
        if os.environ.get("RANK", "0") == "0":
            os.write(2, b"stopping after this step (a second signal stops at once)\n")
