"""Places that metrics go to, behind one interface: metrics.jsonl, TensorBoard, Weights & Biases.

TensorBoard and W&B are extras, imported where they are asked for alone.
"""

from __future__ import annotations

import fcntl
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TextIO

from megatron.seq1f1b.config import LoggingOptions
from megatron.seq1f1b.errors import ConfigurationError
from megatron.seq1f1b.training.console import say
from megatron.seq1f1b.training.metrics import StepMetrics
from megatron.seq1f1b.training.reporting.scalars import scalars

METRICS_FILE = "metrics.jsonl"
WANDB_FILE = "wandb_run.txt"
"""Holds the id of a run's dashboard, so that a run that resumes goes on in it."""


class Writer(Protocol):
    """One place that metrics go to."""

    def write(self, metrics: StepMetrics) -> None:
        """Keep a step."""

    def close(self) -> None:
        """Keep what is not kept yet, and end."""


class JsonLines:
    """metrics.jsonl of a run; one line per step, written at once.

    A run that resumes after `iteration` drops the rows of later steps, which it trains again, and
    whatever a process that was killed left of a row. No other run can write there meanwhile.
    """

    def __init__(self, run_dir: Path, *, iteration: int = 0) -> None:
        path = run_dir / METRICS_FILE
        self._file = path.open("a", encoding="utf-8", buffering=1)
        _lock(self._file, run_dir)
        self.kept_rows = _keep_rows(path, iteration)

    def write(self, metrics: StepMetrics) -> None:
        """Append one step."""
        self._file.write(metrics.to_json() + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoard:
    """Event files; a run that resumes after `iteration` hides what was written of later steps."""

    def __init__(self, options: LoggingOptions, *, iteration: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._interval = options.tensorboard_log_interval or 1
        self._events = SummaryWriter(
            options.tensorboard_dir,
            max_queue=options.tensorboard_queue_size or 1000,
            purge_step=iteration + 1 if iteration else None,
        )

    def write(self, metrics: StepMetrics) -> None:
        """Add a point to every chart."""
        if is_due(metrics, self._interval):
            for name, value in scalars(metrics).items():
                self._events.add_scalar(name, value, metrics.iteration)

    def close(self) -> None:
        """Write what is queued."""
        self._events.close()


class WeightsAndBiases:
    """A run of a W&B project, on its server or with WANDB_MODE=offline in files."""

    def __init__(
        self, options: LoggingOptions, run_dir: Path, *, configuration: Mapping[str, object], iteration: int
    ) -> None:
        import wandb

        self._interval = options.tensorboard_log_interval or 1
        folder = Path(options.wandb_save_dir or run_dir)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._run: Any = wandb.init(
                project=options.wandb_project,
                entity=options.wandb_entity or None,
                name=options.wandb_exp_name or run_dir.name,
                dir=str(folder),
                config=dict(configuration),
                id=_dashboard_id(run_dir, is_resumed=iteration > 0),
                resume="allow",
            )
        except Exception as error:  # W&B has many of its own
            raise ConfigurationError(
                f"--wandb-project {options.wandb_project}: {error} (WANDB_MODE=offline keeps a run in files)"
            ) from error

    def write(self, metrics: StepMetrics) -> None:
        """Add a point to every chart."""
        if is_due(metrics, self._interval):
            self._run.log(scalars(metrics), step=metrics.iteration)

    def close(self) -> None:
        """Send what is queued."""
        self._run.finish()


def is_due(metrics: StepMetrics, interval: int) -> bool:
    """Whether a step is one that dashboards show."""
    return metrics.iteration % interval == 0 or metrics.validation_loss is not None


def _lock(file: TextIO, run_dir: Path) -> None:
    """For as long as the file is open, which it is not where another process has it.

    Raises:
        ConfigurationError: another process has it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ConfigurationError(
            f"another run is writing to {run_dir}; end it, or give this one a --run-dir of its own"
        ) from None
    except OSError:
        pass  # A file system without locks: runs must look after themselves.


def _keep_rows(path: Path, iteration: int) -> list[dict[str, Any]]:
    """Keep the whole rows of steps up to `iteration`, and return them."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    rows = [(line, json.loads(line)) for line in lines if line.endswith("\n")]
    kept = [(line, row) for line, row in rows if row["iteration"] <= iteration]
    if lines and not iteration:
        say(f"{path} held {len(lines)} steps of an earlier run, which this one, starting anew, replaces")
    if len(kept) < len(lines):
        path.write_text("".join(line for line, _ in kept), encoding="utf-8")
    return [row for _, row in kept]


def _dashboard_id(run_dir: Path, *, is_resumed: bool) -> str:
    path = run_dir / WANDB_FILE
    if is_resumed and path.is_file():
        return path.read_text(encoding="utf-8").strip()
    name = secrets.token_hex(4)
    path.write_text(f"{name}\n", encoding="utf-8")
    return name
