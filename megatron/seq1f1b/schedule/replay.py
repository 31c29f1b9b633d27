"""Executing a plan without computing: in which order its actions can run, and where they get stuck.

Every rank runs its list in order and waits where a need is unmet; sends never wait. Whether the
plan comes to its end does not depend on timing, so one replay decides.
"""

from __future__ import annotations

from collections.abc import Iterator

from megatron.seq1f1b.errors import PlanError
from megatron.seq1f1b.schedule.dependencies import Dependencies


class DeadlockError(PlanError):
    """No rank can go on; `stuck` maps every waiting rank to its position and unmet need."""

    def __init__(self, stuck: dict[int, tuple[int, int]]) -> None:
        super().__init__(f"ranks {sorted(stuck)} wait for each other")
        self.stuck = stuck


def replay(dependencies: Dependencies) -> Iterator[tuple[int, int, int]]:
    """Stretches (rank, start, stop) of actions, in an order that meets every need.

    Raises:
        DeadlockError: when nothing can go on before every list has ended.
    """
    lists = dependencies.plan.actions
    done = bytearray(dependencies.num_results)
    positions = [0] * len(lists)
    waiting: dict[int, list[int]] = {}  # by number of the unmet need: the ranks that wait for it
    runnable = list(range(len(lists)))
    while runnable:
        rank = runnable.pop()
        start = positions[rank]
        stop, unmet = _advance(dependencies, rank, start, done, waiting, runnable)
        positions[rank] = stop
        if stop > start:
            yield rank, start, stop
        if unmet is not None:
            waiting.setdefault(unmet, []).append(rank)
    if waiting:
        raise DeadlockError(
            {rank: (positions[rank], unmet) for unmet, ranks in waiting.items() for rank in ranks}
        )


def _advance(
    dependencies: Dependencies,
    rank: int,
    start: int,
    done: bytearray,
    waiting: dict[int, list[int]],
    runnable: list[int],
) -> tuple[int, int | None]:
    """Run one rank from `start` until it waits or ends: where it stands, and the unmet need."""
    actions = dependencies.plan.actions[rank]
    all_needs, all_produces, stride = dependencies.needs, dependencies.produces, dependencies.stride
    for position in range(start, len(actions)):
        kind, virtual_stage, microbatch, chunk = actions[position]
        shift = microbatch * stride
        for base in all_needs[kind][virtual_stage][chunk]:
            if not done[base + shift]:
                return position, base + shift
        for base in all_produces[kind][virtual_stage][chunk]:
            done[base + shift] = 1
            if base + shift in waiting:
                runnable += waiting.pop(base + shift)
    return len(actions), None
