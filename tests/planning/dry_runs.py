"""Dry runs and estimates of the same small runs, printed as JSON; a process of its own for each test.

python -m tests.planning.dry_runs WORLD_SIZE FLAGS...
"""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import asdict

from megatron.seq1f1b.config import parse_arguments
from megatron.seq1f1b.planning.estimate import estimate
from megatron.seq1f1b.planning.from_run import memory_of
from megatron.seq1f1b.training.prepare import prepare
from megatron.seq1f1b.upstream import install_cpu_support


def main(world_size: int, flags: list[str]) -> None:
    """Print {"dry": [...], "estimate": [...]}, one entry per stage."""
    run = prepare(parse_arguments(flags), world_size=world_size)
    estimated = estimate(
        memory_of(run.config, run.layout, run.dimensions),
        run.make_plan(run.layout.num_microbatches, False),
        run.boundaries,
        layers_of_virtual_stages=run.layout.layers_of_virtual_stages,
        micro_batch_size=run.config.training.micro_batch_size,
    )
    install_cpu_support()
    import torch

    from megatron.seq1f1b.planning.dry_run import dry_run
    from megatron.seq1f1b.training import build, steps

    dtype = torch.bfloat16 if run.config.training.bf16 else torch.float32
    counted = dry_run(
        run,
        build_parts=lambda: build._model_parts(run, build.transformer_config(run, dtype)),
        forward_step=steps.forward_step,
    )
    print(
        json.dumps(
            {
                "dry": [asdict(stage) for stage in counted.stages],
                "estimate": [asdict(stage) for stage in estimated.stages],
            }
        )
    )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(int(sys.argv[1]), sys.argv[2:])
