"""The files of a run: its folder, the resolved configuration, metrics.jsonl."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

import torch.distributed as dist

from megatron.seq1f1b.training.metrics import MetricsFile
from megatron.seq1f1b.training.prepare import Run
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


def open_run(run: Run, run_dir: Path, *, iteration: int) -> MetricsFile | None:
    """Write the resolved configuration and open the metrics after `iteration`; rank 0 only."""
    if dist.get_rank() != 0:
        return None
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / STOPPED_FILE).unlink(missing_ok=True)
    text = json.dumps(resolved_configuration(run), indent=2) + "\n"
    (run_dir / CONFIG_FILE).write_text(text, encoding="utf-8")
    return MetricsFile(run_dir, iteration=iteration)


def resolved_configuration(run: Run) -> dict[str, object]:
    """Every option and every number derived from them."""
    return {
        "options": asdict(run.config),
        "layout": asdict(run.layout),
        "boundaries": list(run.boundaries),
        "dimensions": asdict(run.dimensions),
    }
