"""How interleaved schedules cut the microbatches into groups.

A group passes one model part before it enters the next. Its first unit returns to a stage after p
units, so a group wants at least p units, that is ceil(p / k) microbatches, to leave no gap; and no
group should be larger than it must, since a group's activations are what is kept.
"""

from __future__ import annotations


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
