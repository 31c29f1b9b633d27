"""The files of a run: its folder, the resolved configuration, metrics.jsonl."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

import torch.distributed as dist

from megatron.seq1f1b.errors import ConfigurationError, Seq1F1BError
from megatron.seq1f1b.training.prepare import Run
from megatron.seq1f1b.training.reporting.run_log import RunLog
from megatron.seq1f1b.training.stop import FILE as STOPPED_FILE

CONFIG_FILE = "config.json"


def run_directory(run: Run) -> Path:
    """`--run-dir`, or a new folder below runs/ named by the time; equal on every process."""
    asked = run.config.run.run_dir
    if asked is not None:
        return Path(asked)
    stamp = [datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")]
    dist.broadcast_object_list(stamp, src=0)
    return Path("runs") / f"{Path(run.layout.schedule).stem}-{stamp[0]}"


def open_run(run: Run, run_dir: Path, *, iteration: int) -> RunLog | None:
    """Write the resolved configuration and open the log after `iteration`, on rank 0; collective.

    Raises:
        ConfigurationError: on every process where the log cannot be written.
    """
    log = None
    failure: list[str | None] = [None]
    if dist.get_rank() == 0:
        try:
            log = _open(run, run_dir, iteration)
        except (OSError, ValueError, Seq1F1BError) as error:
            failure = [f"the log of the run in {run_dir} cannot be opened: {error}"]
    dist.broadcast_object_list(failure, src=0)
    if failure[0] is not None:
        raise ConfigurationError(failure[0])
    return log


def _open(run: Run, run_dir: Path, iteration: int) -> RunLog:
    run_dir.mkdir(parents=True, exist_ok=True)
    configuration = resolved_configuration(run)
    log = RunLog(
        run.config.logging,
        run_dir,
        configuration=configuration,
        iteration=iteration,
        train_iters=run.layout.train_iters,
    )
    (run_dir / STOPPED_FILE).unlink(missing_ok=True)
    text = json.dumps(configuration, indent=2) + "\n"
    (run_dir / CONFIG_FILE).write_text(text, encoding="utf-8")
    return log


def resolved_configuration(run: Run) -> dict[str, object]:
    """Every option and every number derived from them."""
    return {
        "options": asdict(run.config),
        "layout": asdict(run.layout),
        "boundaries": list(run.boundaries),
        "dimensions": asdict(run.dimensions),
    }
