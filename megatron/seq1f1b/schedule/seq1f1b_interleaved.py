"""Seq1F1B with virtual stages: every stage holds v model parts, and rounds of units pass them in turn.

A round passes model part 0 on all stages, then part 1, and so on, so that a stage finds work in its
first part while the others finish it. Rounds (`grouping.py`) have at least p units, and forward whole
microbatches each, which is what makes any number of chunks and microbatches work. Backwards take
the parts from the last to the first, microbatches first in, first out, chunks last in, first out.

    stage 0, v = 2, one round:   part 0 of the whole round, part 1 of the whole round, then pairs

Warmup gives each stage two units per stage below it where one would do if messages took no time:
the second lets a message travel while the stage computes. With latency l and F = 1, B = 2 a step of
8 stages, 8 microbatches, 4 chunks and v = 2 has a bubble of 0.11 instead of 0.15 at l = 0.1.

With one chunk this is Megatron-Core's interleaved order. Source: the order of Sun et al., arXiv
2406.03488, in rounds of our own.
"""

from __future__ import annotations

from megatron.seq1f1b.schedule.action import Action, ActionKind
from megatron.seq1f1b.schedule.grouping import cut_rounds, units_ahead
from megatron.seq1f1b.schedule.one_forward_one_backward import one_forward_one_backward


def seq1f1b_interleaved(
    *, stages: int, microbatches: int, chunks: int, virtual_stages: int
) -> tuple[tuple[Action, ...], ...]:
    """The actions of every stage, for two or more virtual stages."""
    rounds = cut_rounds(stages=stages, microbatches=microbatches, chunks=chunks)
    actions = []
    for stage in range(stages):
        parts = range(stage, stages * virtual_stages, stages)
        forwards = [
            Action(ActionKind.F, part, unit // chunks, unit % chunks)
            for each in rounds
            for part in parts
            for unit in each.forwards
        ]
        backwards = [
            Action(ActionKind.B, part, unit // chunks, chunks - 1 - unit % chunks)
            for each in rounds
            for part in reversed(parts)
            for unit in each.backwards
        ]
        num_earlier_parts = (virtual_stages - 1) * units_ahead(rounds)
        num_in_flight = 2 * (stages - stage - 1)
        num_to_last_chunk = chunks - 1
        num_warmup = num_earlier_parts + num_in_flight + num_to_last_chunk
        actions.append(one_forward_one_backward(forwards, backwards, num_warmup=num_warmup))
    return tuple(actions)
