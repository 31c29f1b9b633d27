"""How much of a step must be run until a stage has held the most it ever holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from megatron.seq1f1b.schedule import ActionKind, Plan


def microbatches_until_peak(plan: Plan, rank: int, chunk_lengths: Sequence[int]) -> int:
    """Microbatches that one rank has begun when its live tokens peak, and one more.

    What is alive then is what is alive in a plan of only so many microbatches, as long as the
    order of their actions stays the same.
    """
    live = peak = 0
    begun = begun_at_peak = 0
    for kind, _, microbatch, chunk in plan.actions[rank]:
        if kind is ActionKind.F:
            begun = max(begun, microbatch + 1)
            live += chunk_lengths[chunk]
        elif kind is ActionKind.B or kind is ActionKind.W:
            live -= chunk_lengths[chunk]
        if live > peak:
            peak, begun_at_peak = live, begun
    return min(plan.num_microbatches, begun_at_peak + 1)


def first_microbatches(plan: Plan, num_microbatches: int) -> Plan:
    """The plan without its later microbatches; the others keep their order.

    No action needs one of another microbatch, so the rest can still run.
    """
    return replace(
        plan,
        num_microbatches=num_microbatches,
        actions=tuple(
            tuple(action for action in actions if action.microbatch < num_microbatches)
            for actions in plan.actions
        ),
    )
