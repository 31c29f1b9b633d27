"""How interleaved schedules cut a step into groups of microbatches, and into rounds of units.

A round passes one model part before it enters the next. Its first unit returns to a stage after p
units, so a round wants at least p of them to leave no gap; and no round should be larger than it
must, since a round's activations are what is kept.

A group is a round of whole microbatches, and has more than p units where these do not add up to p.
Backward, a round may end inside a microbatch, whose other chunks follow in the next. Forward it may
not, since a microbatch's backwards begin with its last chunk: it ends with the microbatch that the
backward round touched last. With p = 3, m = 3 and k = 2, in every model part:

    one group    forward 0.0 0.1 1.0 1.1 2.0 2.1      backward 0.1 0.0 1.1 1.0 2.1 2.0
    two rounds   forward 0.0 0.1 1.0 1.1 | 2.0 2.1    backward 0.1 0.0 1.1 | 1.0 2.1 2.0

Stage 0 then holds 2.5 microbatches instead of 3 (v = 2). The second forward round is one unit short of
p, which leaves no gap: between two forwards stands a backward, and p - 1 of these outlast a forward.
Two units short would leave one. So this serves where k divides p - 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Round(NamedTuple):
    """What passes the model parts together: units, numbered from 0 in the order in which they pass."""

    forwards: range
    backwards: range


def group_microbatches(*, stages: int, microbatches: int, chunks: int) -> tuple[range, ...]:
    """As many groups of at least ceil(p / k) microbatches as there can be, as equal as possible.

    Larger groups come first. With fewer microbatches than ceil(p / k) all form one group.
    """
    smallest_group = -(-stages // chunks)
    num_groups = max(1, microbatches // smallest_group)
    size, num_larger = divmod(microbatches, num_groups)
    groups = []
    start = 0
    for group in range(num_groups):
        stop = start + size + (1 if group < num_larger else 0)
        groups.append(range(start, stop))
        start = stop
    return tuple(groups)


def cut_rounds(*, stages: int, microbatches: int, chunks: int) -> tuple[Round, ...]:
    """The groups, or rounds of p and more units backward where those keep less and leave no gap."""
    groups = group_microbatches(stages=stages, microbatches=microbatches, chunks=chunks)
    whole = _rounds((chunks * group.stop for group in groups), chunks)
    units = microbatches * chunks
    num_rounds = units // stages
    cut = _rounds((units * (number + 1) // num_rounds for number in range(num_rounds)), chunks)
    has_no_gap = all(len(each.forwards) >= stages - 1 for each in cut)
    return cut if cut and has_no_gap and units_ahead(cut) < units_ahead(whole) else whole


def units_ahead(rounds: tuple[Round, ...]) -> int:
    """G: the most units that a model part has forwarded when a round's first backward comes to it."""
    return max(each.forwards.stop - each.backwards.start for each in rounds)


def _rounds(backward_stops: Iterable[int], chunks: int) -> tuple[Round, ...]:
    """Rounds whose backwards end there, and whose forwards end with the microbatch these touch last."""
    rounds: list[Round] = []
    forward_start = backward_start = 0
    for backward_stop in backward_stops:
        forward_stop = -(-backward_stop // chunks) * chunks
        rounds.append(Round(range(forward_start, forward_stop), range(backward_start, backward_stop)))
        forward_start, backward_start = forward_stop, backward_stop
    return tuple(rounds)
