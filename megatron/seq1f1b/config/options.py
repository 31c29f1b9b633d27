"""Every option of a run, by section: its type, its default and its help.

The docstring below a field is its `--help`. A field's name with dashes is its flag, spelled as in
Megatron-LM; `None` means "derived" or "not given", as the help says.
"""

from __future__ import annotations

from dataclasses import dataclass

from megatron.seq1f1b.config.sections.checkpoint import CheckpointOptions
from megatron.seq1f1b.config.sections.data import DataOptions
from megatron.seq1f1b.config.sections.dry_run import DryRunOptions
from megatron.seq1f1b.config.sections.experts import ExpertOptions
from megatron.seq1f1b.config.sections.logging import LoggingOptions
from megatron.seq1f1b.config.sections.model import ModelOptions
from megatron.seq1f1b.config.sections.optimizer import OptimizerOptions
from megatron.seq1f1b.config.sections.parallel import ParallelOptions
from megatron.seq1f1b.config.sections.positions import PositionOptions
from megatron.seq1f1b.config.sections.run import RunOptions
from megatron.seq1f1b.config.sections.schedule import ScheduleOptions
from megatron.seq1f1b.config.sections.training import TrainingOptions

__all__ = [
    "CheckpointOptions",
    "Config",
    "DataOptions",
    "DryRunOptions",
    "ExpertOptions",
    "LoggingOptions",
    "ModelOptions",
    "OptimizerOptions",
    "ParallelOptions",
    "PositionOptions",
    "RunOptions",
    "ScheduleOptions",
    "TrainingOptions",
]


@dataclass(frozen=True, kw_only=True)
class Config:
    """All options of a run, by section."""

    model: ModelOptions
    positions: PositionOptions
    experts: ExpertOptions
    parallel: ParallelOptions
    schedule: ScheduleOptions
    training: TrainingOptions
    optimizer: OptimizerOptions
    data: DataOptions
    checkpoint: CheckpointOptions
    logging: LoggingOptions
    run: RunOptions
    dry_run: DryRunOptions
