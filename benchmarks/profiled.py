"""Step time with measured boundaries over those balanced by FLOPs, and prediction over measurement.

    torchrun --standalone --nproc_per_node 4 benchmarks/profiled.py --microbatches 4 --chunks 4

The stages are profiled several times, as a run does before its first step, each time followed by pairs
of steps. `uniform_over_profiled` is the median over pairs (at least 1 is the aim);
`predicted_over_measured` compares each profile's simulated step with the steps after it, the median
over profiles (within 10 %). The middle halves are first and third quartiles.
"""

from __future__ import annotations

import dataclasses
import json
import statistics

import pipeline
import torch.distributed as dist
from disturbance import Disturbance, median_and_spread

from megatron.seq1f1b.runtime.chunked_schedule import ChunkedSchedule
from megatron.seq1f1b.training.calibrate import measure
from megatron.seq1f1b.training.steps import make_forward_backward


def by_profile(uniform: pipeline.Contestant) -> tuple[pipeline.Contestant, float]:
    """The same run, cut as a new profile says, and the seconds of a step that it predicts."""
    profile = measure(uniform.run, uniform.trained, uniform.data)
    run = dataclasses.replace(uniform.run, boundaries=profile.boundaries)
    contender = dataclasses.replace(
        uniform, name="profiled", run=run, forward_backward=make_forward_backward(run)
    )
    return contender, profile.predicted_step_seconds


def main() -> None:
    """Measure and print one JSON object on rank 0."""
    options = pipeline.parser(__doc__.split("\n")[0])
    options.add_argument("--profiles", type=int, default=4, help="times that the stages are profiled")
    options.add_argument("--rounds", type=int, default=3, help="pairs of steps after each profile")
    options.add_argument("--schedule", default="seq1f1b", help="which chunked schedule")
    options.set_defaults(seq_length=2048)
    arguments = options.parse_args()
    pipeline.start()
    disturbance = Disturbance()
    run = pipeline.resolve(
        arguments,
        schedule=arguments.schedule,
        chunks=arguments.chunks,
        extra="--pipe-sp-strategy profiled",
    )
    (uniform,) = pipeline.contestants({"uniform_comp": run})
    pipeline.warm_up([uniform])
    seconds: dict[str, list[float]] = {"uniform_comp": [], "profiled": []}
    predicted, boundaries = [], []
    for _ in range(arguments.profiles):
        contender, predicted_seconds = by_profile(uniform)
        pipeline.warm_up([contender])
        for name, taken in pipeline.alternate([uniform, contender], rounds=arguments.rounds).items():
            seconds[name] += taken
        measured = statistics.median(seconds["profiled"][-arguments.rounds :])
        predicted.append(predicted_seconds / measured)
        boundaries.append(contender.run.boundaries)
        assert isinstance(contender.forward_backward, ChunkedSchedule)
        contender.forward_backward.close()
    gain, gain_middle_half = median_and_spread(pipeline.ratios(seconds["uniform_comp"], seconds["profiled"]))
    accuracy, accuracy_middle_half = median_and_spread(predicted)
    result = {
        "schedule": arguments.schedule,
        "stages": dist.get_world_size(),
        "seq_length": arguments.seq_length,
        "uniform_boundaries": run.boundaries,
        "profiled_boundaries": boundaries,
        "seconds": {name: round(statistics.median(taken), 4) for name, taken in seconds.items()},
        **disturbance.shares(),
        "uniform_over_profiled": gain,
        "middle_half_over_pairs": gain_middle_half,
        "predicted_over_measured": accuracy,
        "middle_half_over_profiles": accuracy_middle_half,
    }
    if dist.get_rank() == 0:
        print(json.dumps(result), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
