"""Evaluation: the forwards of any schedule, and nothing else.

With one model part per stage the units simply stream through. With more, groups of microbatches
pass one model part before the next, so that a stage works on its second part while the others
finish the first. Every rank has the same order, hence no schedule of it can deadlock.
"""

from __future__ import annotations

from megatron.seq1f1b.schedule.action import Action, ActionKind
from megatron.seq1f1b.schedule.grouping import group_microbatches


def forward_only(
    *, stages: int, microbatches: int, chunks: int, virtual_stages: int
) -> tuple[tuple[Action, ...], ...]:
    """The forwards of every stage: groups, then model parts, then microbatches, then chunks."""
    groups = group_microbatches(stages=stages, microbatches=microbatches, chunks=chunks)
    return tuple(
        tuple(
            Action(ActionKind.F, part * stages + stage, microbatch, chunk)
            for group in groups
            for part in range(virtual_stages)
            for microbatch in group
            for chunk in range(chunks)
        )
        for stage in range(stages)
    )
