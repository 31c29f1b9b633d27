"""What a step takes where the same action takes now longer, now shorter.

A pipeline is as slow as its slowest stage of the moment: a stage that is late keeps others waiting, and
one that is early gains nothing. Costs that are averages therefore promise a step that is too short, the
more so the less quiet the machine is. How uneven actions were is measured with them: as factors of an
action's average, in the order in which a process computed. A step is expected to take the mean of
simulated ones in which every stage goes through such a sequence from a random place on: slow moments
keep their length, and fall on other actions of other stages.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from megatron.seq1f1b.runtime.timer import TimedActions, averaged
from megatron.seq1f1b.schedule import Costs, Plan, simulate

DRAWS = 32
MAX_SIMULATED_ACTIONS = 1_000_000
"""Fewer draws are made of plans so long that it would be more; about two seconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Unevenness:
    """Factors of the average seconds of an action, in the order in which processes computed."""

    sequences: tuple[tuple[float, ...], ...]

    def drawn(self, num_stages: int, draws: int) -> Iterator[list[Sequence[float]]]:
        """Factors by stage: any sequence from any place on. The same ones whenever it is asked."""
        places = random.Random(0)
        for _ in range(draws):
            yield [_from(places.choice(self.sequences), places) for _ in range(num_stages)]


def _from(sequence: Sequence[float], places: random.Random) -> Sequence[float]:
    place = places.randrange(len(sequence))
    return [*sequence[place:], *sequence[:place]]


def unevenness_of(runs: Iterable[Sequence[TimedActions]]) -> Unevenness:
    """How uneven measured actions were.

    Args:
        runs: what every process computed, by ways of cutting the sequence: an action's average is taken over
            the processes and steps of one way.
    """
    sequences = []
    for everyone in runs:
        means = averaged(everyone, statistics.fmean)
        sequences += [tuple(seconds / means[key] for key, seconds in timed) for timed in everyone if timed]
    return Unevenness(sequences=tuple(sequences))


def expected_seconds(plan: Plan, costs: Costs, unevenness: Unevenness) -> float:
    """Mean makespan of a plan whose actions cost what `costs` says on average, and are that uneven."""
    length = sum(len(actions) for actions in plan.actions)
    draws = min(DRAWS, max(1, MAX_SIMULATED_ACTIONS // length))
    return statistics.fmean(
        simulate(plan, costs, factors=factors).makespan_seconds
        for factors in unevenness.drawn(plan.num_stages, draws)
    )
