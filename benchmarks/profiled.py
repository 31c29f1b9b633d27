r"""Step time with measured boundaries over those balanced by FLOPs, and prediction over measurement.

    torchrun --standalone --nproc_per_node 4 benchmarks/profiled.py --microbatches 4 --chunks 4
    torchrun --standalone --nproc_per_node 4 benchmarks/profiled.py --seq-length 2048 --microbatches 1 \
        --vocab 32000

The stages are profiled several times, as a run does before its first step, each time followed by pairs
of steps. `uniform_over_profiled` is the median over pairs (at least 1 is the aim). A profile that keeps
the boundaries balanced by FLOPs, since it finds none that gain, makes the two the same run: its pairs
are 1 and `kept_uniform` counts it. `predicted_over_measured` compares each profile's simulated step
with the steps after it, the median over profiles (within 10 %). The middle halves are first and third
quartiles.
"""

from __future__ import annotations

import dataclasses
import json
import statistics

import pipeline
import torch.distributed as dist
from disturbance import Disturbance, median_and_spread

from megatron.seq1f1b.runtime.chunked_schedule import ChunkedSchedule
from megatron.seq1f1b.training.calibrate import Profile, measure
from megatron.seq1f1b.training.steps import make_forward_backward


def cut_as(profile: Profile, uniform: pipeline.Contestant) -> pipeline.Contestant:
    """The same run, cut as a profile says."""
    run = dataclasses.replace(uniform.run, boundaries=profile.boundaries)
    return dataclasses.replace(uniform, name="profiled", run=run, forward_backward=make_forward_backward(run))


def pairs(uniform: pipeline.Contestant, profile: Profile, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of steps with either boundaries; the same list twice where they are the same."""
    if profile.boundaries == uniform.run.boundaries:
        (same,) = pipeline.alternate([uniform], rounds=rounds).values()
        return same, same
    contender = cut_as(profile, uniform)
    pipeline.warm_up([contender])
    before, after = pipeline.alternate([uniform, contender], rounds=rounds).values()
    assert isinstance(contender.forward_backward, ChunkedSchedule)
    contender.forward_backward.close()
    return before, after


def main() -> None:
    """Measure and print one JSON object on rank 0."""
    options = pipeline.parser(__doc__.split("\n")[0])
    options.add_argument("--profiles", type=int, default=3, help="times that the stages are profiled")
    options.add_argument("--rounds", type=int, default=2, help="pairs of steps after each profile")
    options.add_argument("--schedule", default="seq1f1b", help="which chunked schedule")
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
    before: list[float] = []
    after: list[float] = []
    predicted, profiles = [], []
    for _ in range(arguments.profiles):
        profile = measure(run, uniform.trained, uniform.data)
        with_uniform, with_profiled = pairs(uniform, profile, arguments.rounds)
        before += with_uniform
        after += with_profiled
        predicted.append(profile.predicted_step_seconds / statistics.median(with_profiled))
        profiles.append(profile)
    gain, gain_middle_half = median_and_spread(pipeline.ratios(before, after))
    accuracy, accuracy_middle_half = median_and_spread(predicted)
    result = {
        "schedule": arguments.schedule,
        "stages": dist.get_world_size(),
        "seq_length": arguments.seq_length,
        "microbatches": arguments.microbatches,
        "vocab": arguments.vocab,
        "uniform_boundaries": run.boundaries,
        "profiled_boundaries": [profile.boundaries for profile in profiles],
        "least_gain": [round(profile.least_gain, 4) for profile in profiles],
        "kept_uniform": sum(profile.boundaries == run.boundaries for profile in profiles),
        "seconds": {
            "uniform_comp": round(statistics.median(before), 4),
            "profiled": round(statistics.median(after), 4),
        },
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
