"""Step time with measured boundaries over those balanced by FLOPs, and prediction over measurement.

    torchrun --standalone --nproc_per_node 4 benchmarks/profiled.py --microbatches 4 --chunks 4

`uniform_over_profiled` is the median over pairs of steps (at least 1 is the aim);
`predicted_over_measured` compares the simulated step with the measured one (within 10 %).
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import tempfile
from pathlib import Path

import torch.distributed as dist
from pipeline import (
    Contestant,
    StealMeter,
    alternate,
    contestants,
    median_ratio,
    parser,
    resolve,
    start,
    training_data,
)

from megatron.seq1f1b.training.calibrate import profiled
from megatron.seq1f1b.training.steps import make_forward_backward


def main() -> None:
    """Measure and print one JSON object on rank 0."""
    options = parser(__doc__.split("\n")[0])
    options.add_argument("--rounds", type=int, default=7, help="pairs of steps")
    options.add_argument("--schedule", default="seq1f1b", help="which chunked schedule")
    arguments = options.parse_args()
    start()
    steal = StealMeter()
    run = resolve(
        arguments,
        schedule=arguments.schedule,
        chunks=arguments.chunks,
        extra="--pipe-sp-strategy profiled",
    )
    (uniform,) = contestants({"uniform_comp": run})
    with tempfile.TemporaryDirectory() as folder:
        measured = profiled(run, uniform.trained, training_data(run), Path(folder))
    by_profile = Contestant(
        name="profiled",
        run=measured,
        trained=uniform.trained,
        forward_backward=make_forward_backward(measured),
    )
    uniform = dataclasses.replace(uniform, forward_backward=make_forward_backward(run))
    seconds = alternate([uniform, by_profile], rounds=arguments.rounds)
    assert measured.predicted_step_seconds is not None
    step = statistics.median(seconds["profiled"])
    result = {
        "schedule": arguments.schedule,
        "uniform_boundaries": run.boundaries,
        "profiled_boundaries": measured.boundaries,
        "seconds": {name: round(statistics.median(taken), 4) for name, taken in seconds.items()},
        "stolen_processor_share": steal.share(),
        "uniform_over_profiled": round(median_ratio(seconds["uniform_comp"], seconds["profiled"]), 4),
        "predicted_seconds": round(measured.predicted_step_seconds, 4),
        "predicted_over_measured": round(measured.predicted_step_seconds / step, 4),
    }
    if dist.get_rank() == 0:
        print(json.dumps(result), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
