"""`pretrain_gpt.py --dry-run`: checks everything that a start checks, and counts what stages will hold.

Needs no GPU and no other process. torch is imported late, and without CUDA: what a run may not do is
said in a moment, and tensors without memory need no device, also where there is one.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping

from megatron.seq1f1b.config import Config
from megatron.seq1f1b.errors import ConfigurationError
from megatron.seq1f1b.planning.memory_report import MemoryReport
from megatron.seq1f1b.training.checkpoint.start import find_start
from megatron.seq1f1b.training.prepare import Run, prepare


def dry_run(config: Config, environment: Mapping[str, str]) -> None:
    """Say what a run would need, and that it would start; only the report is on standard output.

    Raises:
        Seq1F1BError: why it would not.
    """
    is_json = config.dry_run.format == "json"
    # Neither a library nor a check writes between the lines that other programs read.
    with contextlib.redirect_stdout(sys.stderr):
        run = prepare(config, world_size=world_size_of(config, environment))
        find_start(run)
        report = rehearse(run)
    print(report.to_json() if is_json else report.to_table())
    print(_verdict(run), file=sys.stderr if is_json else sys.stdout)


def world_size_of(config: Config, environment: Mapping[str, str]) -> int:
    """Processes of the run: as asked, as torchrun started, or one model's worth."""
    if config.dry_run.world_size is not None:
        return config.dry_run.world_size
    parallel = config.parallel
    model_parallel = parallel.tensor_model_parallel_size * parallel.pipeline_model_parallel_size
    return int(environment.get("WORLD_SIZE", model_parallel))


def rehearse(run: Run) -> MemoryReport:
    """Run every stage of a run on tensors without memory.

    Raises:
        ConfigurationError: Megatron-Core refuses what the run asks for.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    from megatron.seq1f1b.upstream import prepare_megatron_core

    prepare_megatron_core()
    from megatron.seq1f1b.planning.dry_run import dry_run as count
    from megatron.seq1f1b.training import build, steps

    try:
        transformer = build.transformer_config(run, build.dtype_of(run))
    except (AssertionError, ValueError) as error:
        raise ConfigurationError(f"Megatron-Core refuses this model: {error}") from error
    return count(
        run, build_parts=lambda: build.model_parts(run, transformer), forward_step=steps.forward_step
    )


def _verdict(run: Run) -> str:
    layout, parallel, chunks = run.layout, run.config.parallel, run.config.schedule.pipe_sp_splits
    return (
        f"this run would start: {layout.world_size} processes, tensor "
        f"{parallel.tensor_model_parallel_size} x pipeline {parallel.pipeline_model_parallel_size} x data "
        f"{layout.data_parallel_size}; schedule {layout.schedule}, {chunks} "
        f"chunk{'s' * (chunks > 1)}, {layout.num_microbatches} microbatches"
    )
