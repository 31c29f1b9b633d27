"""Seq1F1B: one forward, one backward, with a chunk of a sequence as the unit of work.

Forwards run through a microbatch's chunks in order, since a chunk attends to the keys and values
of those before it. Backwards run through them in reverse, since the gradients of those keys and
values come from the chunks after it. So the units wait first in, first out over microbatches, and
last in, first out inside one. With one chunk this is 1F1B, in Megatron-Core's own order.

Two stages, two microbatches of two chunks, where a backward takes as long as a forward:

    stage 0   F0.0 F0.1 F1.0      B0.1 F1.1 B0.0      B1.1 B1.0
    stage 1        F0.0 F0.1 B0.1 F1.0 B0.0 F1.1 B1.1 B1.0

Source: Sun et al., arXiv 2406.03488.
"""

from __future__ import annotations

from megatron.seq1f1b.schedule.action import Action, ActionKind
from megatron.seq1f1b.schedule.one_forward_one_backward import one_forward_one_backward


def seq1f1b(*, stages: int, microbatches: int, chunks: int) -> tuple[tuple[Action, ...], ...]:
    """The actions of every stage; warmup is one unit per stage below plus the chunks in between."""
    return tuple(
        one_forward_one_backward(
            forwards(stage, microbatches, chunks),
            backwards(stage, microbatches, chunks),
            num_warmup=num_warmup_units(stage, stages=stages, chunks=chunks),
        )
        for stage in range(stages)
    )


def num_warmup_units(stage: int, *, stages: int, chunks: int) -> int:
    """Forwards of a stage before it alternates forwards and backwards.

    p - s - 1 units fill the stages below; k - 1 more must pass before the last chunk, whose
    backward is the first, has been forwarded.
    """
    return (stages - stage - 1) + (chunks - 1)


def forwards(virtual_stage: int, microbatches: int, chunks: int) -> list[Action]:
    """All forwards of a virtual stage: microbatches ascending, chunks ascending."""
    return [
        Action(ActionKind.F, virtual_stage, microbatch, chunk)
        for microbatch in range(microbatches)
        for chunk in range(chunks)
    ]


def backwards(virtual_stage: int, microbatches: int, chunks: int) -> list[Action]:
    """All backwards of a virtual stage: microbatches ascending, chunks descending."""
    return [
        Action(ActionKind.B, virtual_stage, microbatch, chunk)
        for microbatch in range(microbatches)
        for chunk in reversed(range(chunks))
    ]
