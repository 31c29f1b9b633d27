"""A step as it was measured, beside its simulation.

Idle time, defined once: the step of a pipeline lasts from the first start of an action that computes
(F, B, I, W) to the last end of one, over all its stages. A stage is busy while it computes, from the
moment that what the action needs has arrived; the rest is idle, be it that the stage waits for a
message, starts to send, posts a receive, or does what no action covers. The bubble is the idle share of
all stages' time, as `Simulation.bubble_fraction` has it, where messages take no time of a stage. Of
several replicas of the pipeline, the bubble of the run is their mean. What waits inside an action, as
tensor-parallel messages and first reads of data do, counts as computing.
"""

from __future__ import annotations

import math
import statistics
from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from megatron.seq1f1b.schedule import Action, ActionKind, Costs, Plan, Simulation, simulate

MOMENTS = 3


class Timed(NamedTuple):
    """One action of one stage, in seconds of one clock."""

    stage: int
    action: Action
    begin: float
    """When the stage came to it, and may have begun to wait."""
    start: float
    """When what it needs had arrived."""
    end: float


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredPipeline:
    """One step of one pipeline."""

    plan: Plan
    """With its messages."""
    seconds: Sequence[array[float]]
    """By stage: begin, start and end of each action in the plan's order; not a number if not seen."""

    def timed(self) -> Iterator[Timed]:
        """Every action that was seen."""
        for stage, (actions, seconds) in enumerate(zip(self.plan.actions, self.seconds, strict=True)):
            for number, action in enumerate(actions):
                begin, start, end = seconds[MOMENTS * number : MOMENTS * (number + 1)]
                if not math.isnan(end):
                    yield Timed(stage, action, begin, start, end)

    def computed(self) -> Iterator[Timed]:
        """Every action that computes."""
        return (timed for timed in self.timed() if timed.action.kind.is_compute)

    @property
    def started_at(self) -> float:
        """The first start of an action that computes."""
        return min(timed.start for timed in self.computed())

    def as_simulation(self, token_shares: Sequence[float]) -> Simulation:
        """The step in the form of a simulated one: its actions that compute, from time 0."""
        zero = self.started_at
        starts = [array("d") for _ in self.plan.actions]
        ends = [array("d") for _ in self.plan.actions]
        busy = [0.0 for _ in self.plan.actions]
        for stage, _, _, start, end in self.computed():
            starts[stage].append(start - zero)
            ends[stage].append(end - zero)
            busy[stage] += end - start
        makespan = max(max(of_stage) for of_stage in ends)
        bubbles = tuple(1.0 - seconds / makespan for seconds in busy)
        plan = _without_messages(self.plan)
        return replace(
            simulate(plan, self.costs(token_shares)),
            starts=tuple(starts),
            ends=tuple(ends),
            makespan_seconds=makespan,
            bubble_fraction=statistics.fmean(bubbles),
            bubble_fraction_per_stage=bubbles,
        )

    def costs(self, token_shares: Sequence[float]) -> Costs:
        """What every action took, the median over microbatches; messages are free."""
        taken: dict[tuple[ActionKind, int, int], list[float]] = defaultdict(list)
        for _, action, _, start, end in self.computed():
            taken[action.kind, action.virtual_stage, action.chunk].append(end - start)

        def table(kind: ActionKind) -> list[list[float]]:
            return [
                [
                    statistics.median(taken.get((kind, virtual_stage, chunk), (0.0,)))
                    for chunk in range(self.plan.num_chunks)
                ]
                for virtual_stage in range(self.plan.num_all_virtual_stages)
            ]

        return Costs(
            forward_seconds=table(ActionKind.F),
            backward_seconds=table(ActionKind.B),
            input_grad_seconds=table(ActionKind.I),
            weight_grad_seconds=table(ActionKind.W),
            token_shares=token_shares,
        )

    def shares(self, stage: int) -> StageShares:
        """What one stage did with the step's time."""
        started_at, ended_at = self.started_at, max(timed.end for timed in self.computed())
        own = [timed for timed in self.timed() if timed.stage == stage]
        computed = [timed for timed in own if timed.action.kind.is_compute]
        computing = sum(timed.end - timed.start for timed in computed)
        waiting = sum(max(0.0, timed.start - max(timed.begin, started_at)) for timed in computed)
        sending = sum(timed.end - timed.begin for timed in own if timed.action.kind.is_send)
        done = ended_at - max(timed.end for timed in own)
        span = ended_at - started_at
        return StageShares(
            computing=computing / span,
            waiting=waiting / span,
            sending=sending / span,
            done=done / span,
            other=max(0.0, 1.0 - (computing + waiting + sending + done) / span),
        )


class StageShares(NamedTuple):
    """Shares of a step's time on one stage; they add up to 1."""

    computing: float
    waiting: float
    """For messages, before the actions that need them."""
    sending: float
    """Starting to send; with Megatron-Core's own schedules until the message has been taken."""
    done: float
    """After the stage's last action, until that of the slowest stage."""
    other: float
    """Between actions."""


def _without_messages(plan: Plan) -> Plan:
    actions = tuple(tuple(a for a in of_rank if a.kind.is_compute) for of_rank in plan.actions)
    return replace(plan, actions=actions)


def scaled(simulation: Simulation, seconds: float) -> Simulation:
    """The same simulation on another scale of time, so that its actions add up to `seconds`."""
    busy = sum(
        end - start
        for starts, ends in zip(simulation.starts, simulation.ends, strict=True)
        for start, end in zip(starts, ends, strict=True)
    )
    factor = seconds / busy
    return replace(
        simulation,
        starts=tuple(array("d", (factor * each for each in times)) for times in simulation.starts),
        ends=tuple(array("d", (factor * each for each in times)) for times in simulation.ends),
        makespan_seconds=factor * simulation.makespan_seconds,
    )
