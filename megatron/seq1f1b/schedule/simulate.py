"""When every action of a plan starts and ends, and what the stages hold meanwhile.

A rank runs its list in order; an action starts when the one before it has ended and its needs are
met. Sends and receives take no time on their rank. A message leaves once it has been sent, its
receive has been posted and its channel has finished the message before it.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from megatron.seq1f1b.schedule.action import ActionKind
from megatron.seq1f1b.schedule.costs import Costs
from megatron.seq1f1b.schedule.dependencies import Dependencies, dependencies_of
from megatron.seq1f1b.schedule.network import Network
from megatron.seq1f1b.schedule.occupancy import occupancy_of
from megatron.seq1f1b.schedule.plan import Plan
from megatron.seq1f1b.schedule.replay import replay

_COMPUTE = (ActionKind.F, ActionKind.B, ActionKind.I, ActionKind.W)


@dataclass(frozen=True, kw_only=True, slots=True)
class Simulation:
    """One step of a plan under a cost model; lists have one entry per pipeline rank."""

    plan: Plan
    starts: tuple[array[float], ...]
    """Start of every action in seconds, aligned with `plan.actions`."""
    ends: tuple[array[float], ...]
    makespan_seconds: float
    bubble_fraction: float
    """Idle share of all ranks' time from the start of the step to its end."""
    bubble_fraction_per_stage: tuple[float, ...]
    peak_activation_microbatches_per_stage: tuple[float, ...]
    """In units of one stage's activations of one whole microbatch."""
    peak_kv_caches_per_stage: tuple[int, ...]
    """Most KV caches held at a time, one per virtual stage and microbatch."""
    peak_dkv_buffers_per_stage: tuple[int, ...]
    """Most dKV buffers held at a time, one per virtual stage and microbatch."""


def simulate(plan: Plan, costs: Costs, *, factors: Sequence[Sequence[float]] = ()) -> Simulation:
    """Time a plan, with or without its communication, under a cost model.

    Args:
        plan: what the ranks run.
        costs: what its actions and messages cost.
        factors: by rank, what the seconds of its compute actions are multiplied by, in the order in which
            it runs them and from the start again after the last; none takes the costs as they are.

    Raises:
        ConfigurationError: the costs do not fit the plan.
        DeadlockError: the plan cannot come to its end; `validate_plan` explains why.
    """
    costs.check(plan)
    clock = _Clock(dependencies_of(plan), costs, factors)
    for rank, start, stop in replay(clock.dependencies):
        clock.run(rank, start, stop)
    makespan = max((ends[-1] for ends in clock.ends if ends), default=0.0)
    bubbles = tuple(1.0 - busy / makespan if makespan else 0.0 for busy in clock.busy_seconds)
    occupancies = [occupancy_of(plan, rank, costs.token_shares) for rank in range(plan.num_stages)]
    return Simulation(
        plan=plan,
        starts=tuple(clock.starts),
        ends=tuple(clock.ends),
        makespan_seconds=makespan,
        bubble_fraction=sum(bubbles) / len(bubbles),
        bubble_fraction_per_stage=bubbles,
        peak_activation_microbatches_per_stage=tuple(each.peak_activations for each in occupancies),
        peak_kv_caches_per_stage=tuple(each.peak_kv_caches for each in occupancies),
        peak_dkv_buffers_per_stage=tuple(each.peak_dkv_buffers for each in occupancies),
    )


class _Clock:
    """Times of results and ranks while a plan is replayed."""

    def __init__(
        self, dependencies: Dependencies, costs: Costs, factors: Sequence[Sequence[float]] = ()
    ) -> None:
        plan = dependencies.plan
        self.dependencies = dependencies
        self.ready_at = array("d", bytes(8 * dependencies.num_results))
        self.starts = [array("d") for _ in plan.actions]
        self.ends = [array("d") for _ in plan.actions]
        self.busy_seconds = [0.0 for _ in plan.actions]
        self.network = Network(dependencies, costs, self.ready_at)
        nothing = ((0.0,) * plan.num_chunks,) * plan.num_all_virtual_stages
        self.seconds = {kind: costs.seconds_of(kind) if kind in _COMPUTE else nothing for kind in ActionKind}
        self.factors: list[Iterator[float]] = [itertools.cycle(of_rank) for of_rank in factors]

    def run(self, rank: int, start: int, stop: int) -> None:
        """Time the actions [start, stop) of a rank, whose needs all have their times."""
        all_needs, all_produces = self.dependencies.needs, self.dependencies.produces
        stride, ready_at, seconds = self.dependencies.stride, self.ready_at, self.seconds
        first_message = self.network.first_message
        starts, ends = self.starts[rank], self.ends[rank]
        now = ends[-1] if ends else 0.0
        busy = self.busy_seconds[rank]
        factors = self.factors[rank] if self.factors else None
        for kind, virtual_stage, microbatch, chunk in self.dependencies.plan.actions[rank][start:stop]:
            shift = microbatch * stride
            for base in all_needs[kind][virtual_stage][chunk]:
                if ready_at[base + shift] > now:
                    now = ready_at[base + shift]
            starts.append(now)
            duration = seconds[kind][virtual_stage][chunk]
            if factors and duration:
                duration *= next(factors)
            busy += duration
            now += duration
            ends.append(now)
            for base in all_produces[kind][virtual_stage][chunk]:
                ready_at[base + shift] = now
                if base >= first_message:
                    self.network.communicate(base + shift)
        self.busy_seconds[rank] = busy
