"""Flags to a typed, frozen configuration. Nothing below the builders reads it."""

from megatron.seq1f1b.config.activation import Activation
from megatron.seq1f1b.config.idle import idle_notes
from megatron.seq1f1b.config.layout import Layout
from megatron.seq1f1b.config.megatron_flags import notes_on
from megatron.seq1f1b.config.options import (
    CheckpointOptions,
    Config,
    DataOptions,
    DryRunOptions,
    LoggingOptions,
    ModelOptions,
    OptimizerOptions,
    ParallelOptions,
    PositionOptions,
    RunOptions,
    ScheduleOptions,
    TrainingOptions,
)
from megatron.seq1f1b.config.parser import make_parser, parse_arguments, with_config_files
from megatron.seq1f1b.config.validation import validate

__all__ = [
    "Activation",
    "CheckpointOptions",
    "Config",
    "DataOptions",
    "DryRunOptions",
    "Layout",
    "LoggingOptions",
    "ModelOptions",
    "OptimizerOptions",
    "ParallelOptions",
    "PositionOptions",
    "RunOptions",
    "ScheduleOptions",
    "TrainingOptions",
    "idle_notes",
    "make_parser",
    "notes_on",
    "parse_arguments",
    "validate",
    "with_config_files",
]
