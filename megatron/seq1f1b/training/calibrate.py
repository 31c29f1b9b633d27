"""`--pipe-sp-strategy profiled`: boundaries from times measured on this run's own stages.

Before the first step the real stages run a few steps of the real schedule with the sequence cut in
two different ways, of as many microbatches as fill the pipeline. The times of its actions, at as many
lengths and prefixes, fit a cost model per virtual stage; the boundaries are those with the shortest
simulated step of the full batch. They are timed as well before they are taken, and taken only if the
costs of every single step say that they gain: a difference that measurements cannot tell is none, and
`uniform_comp` stays. What was found is kept in the run's folder, and used again by a run of the same
shape.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist

from megatron.seq1f1b.chunk import Boundaries, chunks_from
from megatron.seq1f1b.data.samples import SampleDataset
from megatron.seq1f1b.errors import ConfigurationError
from megatron.seq1f1b.partition import PROFILED, Window, partition
from megatron.seq1f1b.planning.boundaries import best_boundaries
from megatron.seq1f1b.planning.profiled import FittedCosts, Sample, fit_costs
from megatron.seq1f1b.planning.unevenness import expected_seconds, unevenness_of
from megatron.seq1f1b.runtime.chunked_schedule import ChunkedSchedule
from megatron.seq1f1b.runtime.timer import ActionSeconds, ActionTimer, Average, TimedActions, averaged
from megatron.seq1f1b.schedule import ActionKind, Plan, simulate
from megatron.seq1f1b.training.build import Trained
from megatron.seq1f1b.training.console import say
from megatron.seq1f1b.training.prepare import Run, boundary_multiple
from megatron.seq1f1b.training.snapshot import without_trace
from megatron.seq1f1b.training.steps import data_iterators, gradients, make_forward_backward

PROFILE_FILE = "profile.json"
_LEAST_STEPS, _MOST_STEPS = 2, 6
"""Timed steps of each way of cutting, after one that is not timed."""
_LONG_SECONDS = 20.0
"""Of timed steps, after which no more than the least are taken."""
_GOOD_FIT = 0.1
"""No more steps are timed once every action lies so near to the fitted costs: the machine is quiet."""
_WORST_FIT = 0.5
"""Costs that an action misses by more say nothing of the stages; `uniform_comp` is kept then."""
_LEAST_GAIN = 0.01
"""Of the simulated step, by the costs of every single round: less is not told from none."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What calibration found."""

    boundaries: Boundaries
    predicted_step_seconds: float
    """Forward and backward of one step, its actions as uneven as measured; without the optimizer."""
    uniform_boundaries: Boundaries
    """What `uniform_comp` would have cut."""
    worst_fit_error: float
    """Largest relative difference of a measured action from the fitted costs."""
    least_gain: float
    """What the shortest simulated step saves of `uniform_comp`'s, by the round that says least."""

    @property
    def reason(self) -> str:
        """Why these are the boundaries."""
        if self.worst_fit_error > _WORST_FIT:
            return "of even FLOPs, the machine being too restless to measure better ones"
        if self.least_gain < _LEAST_GAIN:
            return f"of even FLOPs: others do not save {_LEAST_GAIN:.0%} of the step by every measurement"
        return f"from measured stages, for a step at least {self.least_gain:.1%} shorter than with even FLOPs"


def profiled(run: Run, trained: Trained, dataset: SampleDataset, run_dir: Path) -> Run:
    """The run with measured boundaries where it asks for them, else as it is."""
    if run.config.schedule.pipe_sp_strategy != PROFILED or len(run.boundaries) == 2:
        return run
    profile = calibrate(run, trained, dataset, run_dir)
    say(
        f"chunk boundaries {profile.reason}; every action within {profile.worst_fit_error:.0%} of its fitted "
        f"cost, a step predicted to take {profile.predicted_step_seconds:.3f} s"
    )
    return dataclasses.replace(
        run,
        boundaries=profile.boundaries,
        predicted_step_seconds=profile.predicted_step_seconds,
    )


def calibrate(run: Run, trained: Trained, dataset: SampleDataset, run_dir: Path) -> Profile:
    """The profile of a run, measured or read from its folder; collective and equal everywhere.

    Raises:
        ConfigurationError: on every process where a new profile cannot be written.
    """
    kept = [_read(run_dir / PROFILE_FILE, run) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(kept, src=0)
    if kept[0] is not None:
        say(f"the stages were measured before: {run_dir / PROFILE_FILE}")
        return kept[0]
    say("measuring the stages to choose chunk boundaries")
    with without_trace(trained):
        profile = measure(run, trained, dataset)
    failure = [_write(run_dir / PROFILE_FILE, run, profile) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(failure, src=0)
    if failure[0] is not None:
        raise ConfigurationError(f"what the stages were measured to take cannot be kept: {failure[0]}")
    return profile


def measure(run: Run, trained: Trained, dataset: SampleDataset) -> Profile:
    """Time the stages, fit costs, search boundaries; collective and equal everywhere."""
    found = _profile(run, cuts(run), trained, dataset)
    if found.boundaries != run.boundaries:
        # Fitted costs know least of chunks unlike those that were timed: these are timed as well.
        found = _profile(run, [run.boundaries, found.boundaries], trained, dataset)
    return found


def _profile(run: Run, ways: Sequence[Boundaries], trained: Trained, dataset: SampleDataset) -> Profile:
    """What steps with sequences cut in some ways say; collective and equal everywhere."""
    timed = [TimedCut(run, boundaries, trained, dataset) for boundaries in ways]
    rounds, fitted = _fitting_rounds(run, timed)
    for cut in timed:
        cut.close()
    window = run.dimensions.window
    plan = run.compute_plan(run.layout.num_microbatches, False)
    best = best_boundaries(
        fitted,
        plan,
        seq_length=run.config.training.seq_length,
        multiple_of=boundary_multiple(run.config),
    ).boundaries
    of_rounds = [fit_rounds([each], statistics.fmean, window=window) for each in rounds]
    least_gain = min(_gain(plan, costs, run.boundaries, best) for costs in of_rounds)
    is_better = fitted.worst_relative_error <= _WORST_FIT and least_gain >= _LEAST_GAIN
    boundaries = best if is_better else run.boundaries
    found = Profile(
        boundaries=boundaries,
        predicted_step_seconds=statistics.median(
            _predicted(plan, costs, each, boundaries) for costs, each in zip(of_rounds, rounds, strict=True)
        ),
        uniform_boundaries=run.boundaries,
        worst_fit_error=fitted.worst_relative_error,
        least_gain=least_gain,
    )
    told = [found]
    dist.broadcast_object_list(told, src=0)
    return told[0]


def _gain(plan: Plan, fitted: FittedCosts, before: Boundaries, after: Boundaries) -> float:
    """The share of a simulated step that other boundaries save."""
    seconds = [simulate(plan, fitted.costs(each)).makespan_seconds for each in (before, after)]
    return 1.0 - seconds[1] / seconds[0]


Round = list[tuple[Boundaries, list[TimedActions]]]
"""A step of every way of cutting: what all processes computed."""


def _fitting_rounds(run: Run, timed: Sequence[TimedCut]) -> tuple[list[Round], FittedCosts]:
    """A few steps of every cut, and costs that fit them; more steps where the machine is restless."""
    for cut in timed:
        cut.step()
        cut.forget()
    rounds: list[Round] = []
    while len(rounds) < _MOST_STEPS:
        for cut in timed:
            cut.step()
        rounds.append([(cut.boundaries, cut.taken()) for cut in timed])
        if len(rounds) < _LEAST_STEPS:
            continue
        fitted = fit_rounds(rounds, statistics.median, window=run.dimensions.window)
        if fitted.worst_relative_error <= _GOOD_FIT or _computed_seconds(rounds) > _LONG_SECONDS:
            break
    return rounds, fitted


def _computed_seconds(rounds: Sequence[Round]) -> float:
    """Of the busiest process in every step; the same number on all of them."""
    return sum(
        max(sum(seconds for _, seconds in timed) for timed in everyone)
        for each in rounds
        for _, everyone in each
    )


def fit_rounds(rounds: Sequence[Round], average: Average, *, window: Window | None = None) -> FittedCosts:
    """Costs that fit an average of every action over all rounds, under a window of attention."""
    together: dict[Boundaries, list[TimedActions]] = defaultdict(list)
    for each in rounds:
        for boundaries, timed in each:
            together[boundaries] += timed
    samples = [
        sample
        for boundaries, timed in together.items()
        for sample in _samples(boundaries, averaged(timed, average))
    ]
    return fit_costs(samples, window=window)


def _predicted(plan: Plan, fitted: FittedCosts, once: Round, boundaries: Boundaries) -> float:
    """The step to expect, had the machine always been as in one round, whose costs are given.

    A step adds its actions up, slow ones included: means, where medians decide on boundaries.
    """
    return expected_seconds(plan, fitted.costs(boundaries), unevenness_of(timed for _, timed in once))


def cuts(run: Run) -> list[Boundaries]:
    """Two ways to cut a run: balanced by FLOPs, and even. The last chunks differ most."""
    even = partition(
        "uniform_comp",
        seq_length=run.config.training.seq_length,
        chunks=run.config.schedule.pipe_sp_splits,
        multiple_of=boundary_multiple(run.config),
    )
    return [run.boundaries] if even == run.boundaries else [run.boundaries, even]


class TimedCut:
    """Steps of a chunked run with its sequences cut in one way; every action is timed.

    Ways of cutting that are compared take their steps in turn: a slow moment of the machine meets them all.
    """

    def __init__(self, run: Run, boundaries: Boundaries, trained: Trained, dataset: SampleDataset) -> None:
        self.boundaries = boundaries
        self._run = dataclasses.replace(run, boundaries=boundaries)
        self._trained = trained
        self._dataset = dataset
        forward_backward = make_forward_backward(self._run)
        assert isinstance(forward_backward, ChunkedSchedule), "Megatron-Core's schedules are not chunked"
        self._forward_backward = forward_backward
        self._timer = forward_backward.observer = ActionTimer()

    def step(self) -> None:
        """Forward and backward of one step; collective."""
        size = _batch_size(self._run)
        # The first batches again and again: a short run has no others.
        iterators = data_iterators(self._run, self._dataset, batch_size=size)
        gradients(self._run, self._trained, self._forward_backward, iterators, batch_size=size)

    def forget(self) -> None:
        """Drop what was timed so far."""
        self._timer.clear()

    def taken(self) -> list[TimedActions]:
        """What every process has computed since the last time, or since `forget`; collective."""
        timed = self._timer.everyone()
        self._timer.clear()
        return timed

    def close(self) -> None:
        """Give the connections back; collective."""
        self._forward_backward.close()


def _batch_size(run: Run) -> int:
    """Samples of a timed step: microbatches that fill the pipeline, or what a plan file has."""
    layout = run.layout
    microbatches = layout.num_microbatches
    if not layout.uses_plan_file:
        microbatches = min(microbatches, run.config.parallel.pipeline_model_parallel_size)
    return layout.global_batch_size // layout.num_microbatches * microbatches


def _samples(boundaries: Boundaries, seconds: ActionSeconds) -> list[Sample]:
    chunks = chunks_from(boundaries)
    samples = []
    for (kind, virtual_stage, index), forward in seconds.items():
        if kind is not ActionKind.F:
            continue
        weight_grad = seconds.get((ActionKind.W, virtual_stage, index))
        input_grad = seconds.get((ActionKind.I, virtual_stage, index), 0.0)
        whole = seconds.get((ActionKind.B, virtual_stage, index), input_grad + (weight_grad or 0.0))
        samples.append(
            Sample(
                virtual_stage=virtual_stage,
                length=chunks[index].length,
                prefix=chunks[index].start,
                forward_seconds=forward,
                backward_seconds=whole,
                weight_grad_seconds=weight_grad,
            )
        )
    return samples


def _fingerprint(run: Run) -> str:
    """Of everything that the times depend on, the machine apart."""
    config = run.config
    shape = {
        "dimensions": dataclasses.asdict(run.dimensions),
        "layout": dataclasses.asdict(run.layout),
        "schedule": dataclasses.asdict(config.schedule),
        "parallel": dataclasses.asdict(config.parallel),
        "batch": [config.training.seq_length, config.training.micro_batch_size],
        "plan": Path(run.layout.schedule).read_text(encoding="utf-8") if run.layout.uses_plan_file else "",
    }
    return hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()[:16]


def _write(path: Path, run: Run, profile: Profile) -> str | None:
    """Keep a profile; returns what failed."""
    content = {"fingerprint": _fingerprint(run), **dataclasses.asdict(profile)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        return str(error)
    return None


def _read(path: Path, run: Run) -> Profile | None:
    """A kept profile of a run of the same shape; None where there is none."""
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("fingerprint", None) != _fingerprint(run):
            return None
        for name in ("boundaries", "uniform_boundaries"):
            content[name] = tuple(content[name])
        profile = Profile(**content)
        return profile if _can_be_of(run, profile) else None
    except (ValueError, KeyError, TypeError, AttributeError):
        # Cut off while it was written, or another version's: measuring again mends it.
        return None


def _can_be_of(run: Run, profile: Profile) -> bool:
    """Whether a run can be cut so, and the numbers are numbers.

    Raises:
        ConfigurationError: nothing can be cut so.
    """
    numbers = (profile.predicted_step_seconds, profile.worst_fit_error, profile.least_gain)
    return all(math.isfinite(number) for number in numbers) and all(
        len(cut) == len(run.boundaries)
        and chunks_from(cut)[-1].stop == run.config.training.seq_length
        and all(boundary % boundary_multiple(run.config) == 0 for boundary in cut)
        for cut in (profile.boundaries, profile.uniform_boundaries)
    )
