"""Chunk boundaries that minimise the simulated step of one plan.

The closed form balances the cost of chunks, which is what the slowest stage wants; it knows nothing
of the warmup, of a head on the last stage or of what a chunk costs however short it is. The search
starts from the closed form and moves one boundary at a time, or several together, by steps that
shrink to a thousandth of the sequence. It is deterministic: how long it takes depends on the plan alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from megatron.seq1f1b.chunk import Boundaries
from megatron.seq1f1b.model.flops import causal_pairs
from megatron.seq1f1b.partition import Window, partition
from megatron.seq1f1b.planning.profiled import FittedCosts
from megatron.seq1f1b.schedule import Plan, simulate

MAX_SIMULATED_ACTIONS = 1_000_000
"""About two seconds of search; a plan of that many actions only tries the starting points."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BoundaryChoice:
    """The boundaries found, and what the search gained over where it started."""

    boundaries: Boundaries
    step_seconds: float
    """Simulated, of the plan with these boundaries."""
    closed_form_boundaries: Boundaries
    """Of even cost over all stages together."""
    closed_form_seconds: float
    num_simulations: int


def best_boundaries(
    fitted: FittedCosts,
    plan: Plan,
    *,
    seq_length: int,
    multiple_of: int = 1,
    max_simulated_actions: int = MAX_SIMULATED_ACTIONS,
) -> BoundaryChoice:
    """The boundaries with the shortest simulated step that the search finds.

    Args:
        fitted: costs of every virtual stage.
        plan: what the step runs; with or without its communication.
        seq_length: S.
        multiple_of: every boundary is a multiple of this many tokens.
        max_simulated_actions: ends the search; never changes what an unfinished search returns.

    Raises:
        ConfigurationError: the sequence cannot be cut so, or the costs are another layout's.
    """
    fitted.check(plan)
    search = _Search(fitted, plan, max_simulated_actions)
    closed_form = _closed_form(fitted, plan, seq_length, multiple_of)
    closed_form_seconds = search.seconds(closed_form)
    best = min(
        [closed_form, *_other_starts(fitted, plan, seq_length, multiple_of)],
        key=search.seconds,
    )
    best = search.descend(best, multiple_of)
    return BoundaryChoice(
        boundaries=best,
        step_seconds=search.seconds(best),
        closed_form_boundaries=closed_form,
        closed_form_seconds=closed_form_seconds,
        num_simulations=len(search.known),
    )


class _Search:
    """Simulated seconds of boundaries, each computed once, within a budget of actions."""

    def __init__(self, fitted: FittedCosts, plan: Plan, max_simulated_actions: int) -> None:
        self.known: dict[Boundaries, float] = {}
        self._fitted = fitted
        self._plan = plan
        self._max_simulations = max_simulated_actions // sum(len(actions) for actions in plan.actions)

    def seconds(self, boundaries: Boundaries) -> float:
        """Of the plan's step."""
        if boundaries not in self.known:
            costs = self._fitted.costs(boundaries)
            self.known[boundaries] = simulate(self._plan, costs).makespan_seconds
        return self.known[boundaries]

    def descend(self, boundaries: Boundaries, multiple_of: int) -> Boundaries:
        """Take every move that shortens the step, with ever smaller strides."""
        num_units = boundaries[-1] // multiple_of
        stride = max(1, num_units // (4 * (len(boundaries) - 1)))
        # Finer than a thousandth of the sequence is finer than anything measured.
        finest = max(1, num_units // 1024)
        while stride >= finest and len(boundaries) > 2:
            better = self._first_better(boundaries, stride * multiple_of)
            if better is None:
                stride //= 2
            elif len(self.known) > self._max_simulations:
                return better
            else:
                boundaries = better
            if len(self.known) > self._max_simulations:
                return boundaries
        return boundaries

    def _first_better(self, boundaries: Boundaries, stride: int) -> Boundaries | None:
        limit = self.seconds(boundaries) * (1.0 - 1e-9)
        for moved in _moves(boundaries, stride):
            if self.seconds(moved) < limit:
                return moved
            if len(self.known) > self._max_simulations:
                return None
        return None


def _moves(boundaries: Boundaries, stride: int) -> Iterator[Boundaries]:
    """Runs of neighbouring inner boundaries shifted by a stride, single ones first."""
    num_inner = len(boundaries) - 2
    for width in range(1, num_inner + 1):
        for first in range(1, num_inner - width + 2):
            for shift in (-stride, stride):
                moved = list(boundaries)
                for index in range(first, first + width):
                    moved[index] += shift
                if all(low < high for low, high in pairwise(moved)):
                    yield tuple(moved)


def _closed_form(fitted: FittedCosts, plan: Plan, seq_length: int, multiple_of: int) -> Boundaries:
    """Even cost, forward and backward, over all stages together."""
    per_token, per_pair = _slopes(fitted, range(len(fitted.stages)))
    return _cut(plan, seq_length, multiple_of, per_token, per_pair, fitted.window)


def _other_starts(fitted: FittedCosts, plan: Plan, seq_length: int, multiple_of: int) -> Iterator[Boundaries]:
    """Even tokens, and even cost of the rank that works longest."""
    yield _cut(plan, seq_length, multiple_of, 1.0, 0.0)
    pairs = causal_pairs(0, seq_length, fitted.window)

    def slopes(rank: int) -> tuple[float, float]:
        return _slopes(fitted, range(rank, len(fitted.stages), plan.num_stages))

    def whole_seconds(rank: int) -> float:
        per_token, per_pair = slopes(rank)
        return seq_length * per_token + pairs * per_pair

    slowest = max(range(plan.num_stages), key=whole_seconds)
    yield _cut(plan, seq_length, multiple_of, *slopes(slowest), fitted.window)


def _slopes(fitted: FittedCosts, stages: range) -> tuple[float, float]:
    """Seconds per token and per pair, forward and backward, of some virtual stages together."""
    lines = [
        line for stage in stages for line in (fitted.stages[stage].forward, fitted.stages[stage].backward)
    ]
    return sum(line.seconds_per_token for line in lines), sum(line.seconds_per_pair for line in lines)


def _cut(
    plan: Plan,
    seq_length: int,
    multiple_of: int,
    per_token: float,
    per_pair: float,
    window: Window | None = None,
) -> Boundaries:
    if per_token + per_pair == 0.0:
        per_token = 1.0
    return partition(
        "uniform_comp",
        seq_length=seq_length,
        chunks=plan.num_chunks,
        multiple_of=multiple_of,
        linear_cost=per_token,
        attention_cost=per_pair,
        window=window,
    )
