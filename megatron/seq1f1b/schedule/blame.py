"""Errors about plans: which rank, position and action, why, and the neighbourhood drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from megatron.seq1f1b.errors import PlanError
from megatron.seq1f1b.schedule.action import Action
from megatron.seq1f1b.schedule.dependencies import Dependencies
from megatron.seq1f1b.schedule.grid import window
from megatron.seq1f1b.schedule.plan import Plan
from megatron.seq1f1b.schedule.replay import DeadlockError

MAX_LINKS = 4
"""Links of a cycle of waiting ranks that a message spells out."""


class InvalidPlanError(PlanError):
    """A plan that `validate_plan` refuses, with the place of the first action to blame."""

    def __init__(self, message: str, *, rank: int, position: int) -> None:
        super().__init__(message)
        self.rank = rank
        self.position = position


def fail(plan: Plan, marks: Mapping[int, int], why: str, *, action: Action | None = None) -> NoReturn:
    """Raise an error about the first mark (rank to position); all marks are drawn."""
    rank, position = next(iter(marks.items()))
    if action is None:
        action = plan.actions[rank][position]
    place = f"plan {plan.name!r}, rank {rank}, position {position}, {action}"
    raise InvalidPlanError(f"{place}: {why}\n{window(plan, marks)}", rank=rank, position=position)


def why_stuck(dependencies: Dependencies, deadlock: DeadlockError) -> tuple[dict[int, int], str]:
    """The ranks and positions to mark, and the reason: a wrong order on one rank, or a cycle."""
    plan, stuck = dependencies.plan, deadlock.stuck
    providers = {rank: _provider(dependencies, need) for rank, (_, need) in stuck.items()}
    for rank, (position, _) in stuck.items():
        provider, later = providers[rank]
        if provider == rank:
            needed = plan.actions[rank][later]
            return {rank: position}, f"it needs {needed}, which stands later, at position {later}"
    cycle = _cycle({rank: provider for rank, (provider, _) in providers.items()})
    links = [
        f"rank {rank} waits at {plan.actions[rank][stuck[rank][0]]} for "
        f"{plan.actions[providers[rank][0]][providers[rank][1]]} of rank {providers[rank][0]}"
        for rank in cycle
    ]
    more = [f"and so on around {len(links)} ranks"] if len(links) > MAX_LINKS else []
    why = "deadlock: " + ", ".join(links[:MAX_LINKS] + more)
    return {rank: stuck[rank][0] for rank in cycle}, why


def _provider(dependencies: Dependencies, need: int) -> tuple[int, int]:
    """The rank and position of the action that produces a needed result."""
    plan = dependencies.plan
    _, *place = dependencies.describe(need)
    rank = plan.rank_of(place[0])
    for position, action in enumerate(plan.actions[rank]):
        if [*action[1:]] == place and need in dependencies.produced_by(action):
            return rank, position
    raise AssertionError("a complete plan produces every result that is needed")


def _cycle(waits_for: Mapping[int, int]) -> list[int]:
    """A cycle in which every rank waits for the next; there is one, as every rank waits."""
    path = [min(waits_for)]
    while waits_for[path[-1]] not in path:
        path.append(waits_for[path[-1]])
    return path[path.index(waits_for[path[-1]]) :]
