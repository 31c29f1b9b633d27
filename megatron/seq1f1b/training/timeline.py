"""`--timeline N`: when every action of N steps ran on every rank, as a trace, a picture and numbers.

Each timed step starts together; within it clocks are only read (on CUDA, events recorded), and nothing
is exchanged or waited for. After it, seconds are put on rank 0's clock (`clock_offsets.py`) and
gathered there. What counts as idle is defined in `planning/measured.py`.
"""

from __future__ import annotations

import statistics
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from megatron.seq1f1b.chunk import chunks_from
from megatron.seq1f1b.config.observing import TIMELINE_WARMUP_STEPS
from megatron.seq1f1b.planning.drawing import to_svg
from megatron.seq1f1b.planning.measured import MeasuredPipeline, scaled
from megatron.seq1f1b.planning.stage_costs import flop_costs
from megatron.seq1f1b.planning.timeline import Panel, describe, draw
from megatron.seq1f1b.planning.trace import MeasuredTrace
from megatron.seq1f1b.runtime.chunked_schedule import ChunkedSchedule
from megatron.seq1f1b.runtime.clock_offsets import ClockOffset, clock_offsets
from megatron.seq1f1b.runtime.recorder import MOMENTS, ActionRecorder, DeviceClock, HostClock
from megatron.seq1f1b.runtime.upstream_timers import ObservedTimers
from megatron.seq1f1b.schedule import Plan, Simulation, simulate
from megatron.seq1f1b.training.build import Trained
from megatron.seq1f1b.training.console import say
from megatron.seq1f1b.training.prepare import Run
from megatron.seq1f1b.training.steps import ForwardBackward
from megatron.seq1f1b.upstream import is_cpu_only
from megatron.seq1f1b.upstream.parallel import pipeline_rank

TRACE_FILE, PICTURE_FILE = "timeline.json", "timeline.svg"


@dataclass(frozen=True, kw_only=True)
class TimedStep:
    """One step on rank 0: measured, and simulated with what it measured."""

    iteration: int
    pipelines: list[MeasuredPipeline]
    """By data-parallel, then tensor-parallel rank."""
    bubble_fraction: float
    """Mean over the pipelines."""
    measured: Simulation
    """Of the first pipeline."""
    simulated: Simulation
    """Of the same plan, with the median time of every action of the first pipeline."""


class Timeline:
    """Watches the steps of a run; does nothing where no timeline was asked for."""

    def __init__(
        self, run: Run, trained: Trained, forward_backward: ForwardBackward, *, first: int, run_dir: Path
    ) -> None:
        """`first` is the first step that this process runs."""
        num_steps = run.config.run.timeline or 0
        first += TIMELINE_WARMUP_STEPS
        self._iterations = range(first, first + num_steps)
        self._run = run
        self._trained = trained
        self._forward_backward = forward_backward
        self._run_dir = run_dir
        self._recorder: ActionRecorder[float] | ActionRecorder[torch.cuda.Event] | None = None
        self._offsets: list[ClockOffset] = []
        self._steps: list[TimedStep] = []
        self._plan: Plan | None = None

    def before(self, iteration: int, *, num_microbatches: int) -> None:
        """Get ready to watch the step if it is one of those; collective."""
        if iteration not in self._iterations:
            return
        self._recorder = ActionRecorder(HostClock()) if is_cpu_only() else ActionRecorder(DeviceClock())
        self._plan = self._run.make_plan(num_microbatches, False)
        if isinstance(self._forward_backward, ChunkedSchedule):
            self._forward_backward.observer = self._recorder
        else:
            self._trained.transformer.timers = ObservedTimers(self._recorder, self._plan, pipeline_rank())
        self._offsets = clock_offsets()
        dist.barrier()
        self._recorder.start()

    def after(self, iteration: int) -> float | None:
        """The step's bubble, equal on every process; None where it was not watched. Collective."""
        if iteration not in self._iterations:
            return None
        assert self._recorder is not None
        assert self._plan is not None
        if isinstance(self._forward_backward, ChunkedSchedule):
            self._forward_backward.observer = None
        else:
            self._trained.transformer.timers = None
        pipelines = _gather(self._plan, self._recorder.seconds(self._plan, pipeline_rank()), self._offsets)
        bubble: list[float] = [0.0]
        if pipelines:
            self._steps.append(_timed_step(iteration, pipelines, self._shares()))
            bubble = [self._steps[-1].bubble_fraction]
        dist.broadcast_object_list(bubble, src=0)
        if iteration == self._iterations[-1]:
            self.close()
        return bubble[0]

    def close(self) -> None:
        """Write what was measured, and say it; rank 0 alone has any."""
        if self._steps:
            self._write()
            say(self._report())
        self._steps = []

    def _shares(self) -> list[float]:
        chunks = chunks_from(self._run.boundaries)
        return [chunk.length / chunks[-1].stop for chunk in chunks]

    def _write(self) -> None:
        first, usual = self._steps[0].pipelines, self._usual_step()
        names = [_pipeline_name(self._run, number) for number in range(len(first))]
        started_at = min(pipeline.started_at for pipeline in first)
        trace = MeasuredTrace(names, num_stages=first[0].plan.num_stages, started_at=started_at)
        for step in self._steps:
            trace.add(step.iteration, step.pipelines, step.simulated)
        (self._run_dir / TRACE_FILE).write_text(trace.to_json(), encoding="utf-8")
        panels = [
            _panel(f"step {usual.iteration} as measured", usual.measured),
            _panel("simulated with the measured time of every action", usual.simulated),
            _panel("simulated from FLOPs, scaled to the same computing time", self._from_flops(usual)),
        ]
        (self._run_dir / PICTURE_FILE).write_text(to_svg(draw(panels)), encoding="utf-8")

    def _usual_step(self) -> TimedStep:
        """The step of median length."""
        ordered = sorted(self._steps, key=lambda step: step.measured.makespan_seconds)
        return ordered[(len(ordered) - 1) // 2]

    def _from_flops(self, step: TimedStep) -> Simulation:
        plan = step.measured.plan
        busy = sum((1.0 - bubble) for bubble in step.measured.bubble_fraction_per_stage)
        return scaled(simulate(plan, flop_costs(self._run)), busy * step.measured.makespan_seconds)

    def _report(self) -> str:
        steps, usual = self._steps, self._usual_step()
        makespans = statistics.median(step.measured.makespan_seconds for step in steps)
        simulated = statistics.median(step.simulated.makespan_seconds for step in steps)
        bubble = statistics.median(step.bubble_fraction for step in steps)
        of_simulated = statistics.median(step.simulated.bubble_fraction for step in steps)
        which = (
            f"step {steps[0].iteration}"
            if len(steps) == 1
            else f"steps {steps[0].iteration} to {steps[-1].iteration} (medians)"
        )
        lines = [
            f"timeline of {which}, {usual.measured.plan.name}: forward and backward {makespans:.4g} s",
            f"  bubble {bubble:6.1%} measured",
            f"         {of_simulated:6.1%} simulated with the measured times ({simulated:.4g} s)",
            f"         {self._from_flops(usual).bubble_fraction:6.1%} simulated from FLOPs",
            f"  {f'step {usual.iteration}':<11}  computes  waits for messages  sends  is done  other",
        ]
        for stage in range(usual.measured.plan.num_stages):
            shares = usual.pipelines[0].shares(stage)
            lines.append(
                f"  stage {stage:<5}  {shares.computing:8.1%}  {shares.waiting:18.1%}  {shares.sending:5.1%}"
                f"  {shares.done:7.1%}  {shares.other:5.1%}"
            )
        lines.append(f"  {self._run_dir / TRACE_FILE} (ui.perfetto.dev), {self._run_dir / PICTURE_FILE}")
        lines.append(f"  {_clocks(self._offsets)}")
        return "\n".join(lines)


def _gather(plan: Plan, seconds: array[float], offsets: Sequence[ClockOffset]) -> list[MeasuredPipeline]:
    """On rank 0 every pipeline of the job; elsewhere none."""
    offset = offsets[dist.get_rank()].seconds
    aligned = array("d", (second + offset for second in seconds))
    place = (
        parallel_state.get_data_parallel_rank(),
        parallel_state.get_tensor_model_parallel_rank(),
        pipeline_rank(),
    )
    everyone: list[tuple[tuple[int, int, int], bytes]] | None = None
    if dist.get_rank() == 0:
        everyone = [(place, b"")] * dist.get_world_size()
    dist.gather_object((place, aligned.tobytes()), everyone, dst=0)
    stages = [(place, array("d", sent)) for place, sent in sorted(everyone or [])]
    assert all(len(times) == MOMENTS * len(plan.actions[place[2]]) for place, times in stages)
    return [
        MeasuredPipeline(plan=plan, seconds=[times for _, times in stages[first : first + plan.num_stages]])
        for first in range(0, len(stages), plan.num_stages)
    ]


def _timed_step(iteration: int, pipelines: list[MeasuredPipeline], token_shares: list[float]) -> TimedStep:
    measured = [pipeline.as_simulation(token_shares) for pipeline in pipelines]
    return TimedStep(
        iteration=iteration,
        pipelines=pipelines,
        bubble_fraction=statistics.fmean(each.bubble_fraction for each in measured),
        measured=measured[0],
        simulated=simulate(measured[0].plan, pipelines[0].costs(token_shares)),
    )


def _pipeline_name(run: Run, number: int) -> str:
    tensor = run.config.parallel.tensor_model_parallel_size
    if run.layout.data_parallel_size * tensor == 1:
        return f"measured, {run.layout.schedule}"
    return f"measured, data-parallel rank {number // tensor}, tensor-parallel rank {number % tensor}"


def _panel(title: str, simulation: Simulation) -> Panel:
    return Panel(
        title=f"{title}: {describe(simulation.plan)}",
        simulation=simulation,
        stage_labels=[f"idle {bubble:.1%}" for bubble in simulation.bubble_fraction_per_stage],
        caption=(
            f"bubble {simulation.bubble_fraction:.1%}, forward and backward "
            f"{simulation.makespan_seconds:.4g} s"
        ),
    )


def _clocks(offsets: Sequence[ClockOffset]) -> str:
    machines = len({offset.machine for offset in offsets})
    if machines == 1:
        return "all processes read the clock of one machine"
    uncertain = max(offset.uncertain_seconds for offset in offsets)
    return f"clocks of {machines} machines aligned by round trips, to {1e6 * uncertain:.0f} microseconds"
