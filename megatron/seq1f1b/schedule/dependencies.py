"""What every action needs before it can run: the one statement of it.

    F(s, j, c)        needs  F(s-1, j, c)   the previous virtual stage's output
                             F(s, j, c-1)   the keys and values of the prefix (KV)
    B or I (s, j, c)  needs  F(s, j, c)     what the forward kept
                             B(s+1, j, c)   the gradient of the output
                             B(s, j, c+1)   the gradients of keys and values (dKV)
    W(s, j, c)        needs  I(s, j, c)

Actions produce *results*: an output (F), an input gradient (B or I), a weight gradient (B or W). A
result that crosses ranks becomes a *message*, which is there once the sender has sent it, and which
its consumer can take once the receive is *posted*. In a plan without communication a producer sends
by itself, and receives count as posted. Validator and simulator both read the tables built here.

Every result, message and posted receive has a number, so that plans of millions of actions need
flat arrays only: number = base[kind][virtual stage][chunk] + microbatch * k.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from megatron.seq1f1b.schedule.action import Action, ActionKind
from megatron.seq1f1b.schedule.plan import Plan


class Result(IntEnum):
    """What an action leaves behind: at most one of each per (virtual stage, microbatch, chunk).

    A SENT result belongs to the virtual stage that sends, a POSTED one to the one that receives.
    """

    OUTPUT = 0
    INPUT_GRAD = 1
    WEIGHT_GRAD = 2
    SENT_OUTPUT = 3
    SENT_GRAD = 4
    POSTED_OUTPUT = 5
    POSTED_GRAD = 6


class Need(NamedTuple):
    """One dependency: a result of the virtual stage and chunk this far away."""

    result: Result
    virtual_stage_offset: int
    chunk_offset: int


NEEDS: dict[ActionKind, tuple[Need, ...]] = {
    ActionKind.F: (Need(Result.OUTPUT, -1, 0), Need(Result.OUTPUT, 0, -1)),
    ActionKind.B: (
        Need(Result.OUTPUT, 0, 0),
        Need(Result.INPUT_GRAD, +1, 0),
        Need(Result.INPUT_GRAD, 0, +1),
    ),
    ActionKind.I: (
        Need(Result.OUTPUT, 0, 0),
        Need(Result.INPUT_GRAD, +1, 0),
        Need(Result.INPUT_GRAD, 0, +1),
    ),
    ActionKind.W: (Need(Result.INPUT_GRAD, 0, 0),),
    ActionKind.SEND_F: (Need(Result.OUTPUT, 0, 0),),
    ActionKind.SEND_B: (Need(Result.INPUT_GRAD, 0, 0),),
    ActionKind.RECV_F: (),
    ActionKind.RECV_B: (),
}

PRODUCES: dict[ActionKind, tuple[Result, ...]] = {
    ActionKind.F: (Result.OUTPUT,),
    ActionKind.B: (Result.INPUT_GRAD, Result.WEIGHT_GRAD),
    ActionKind.I: (Result.INPUT_GRAD,),
    ActionKind.W: (Result.WEIGHT_GRAD,),
    ActionKind.SEND_F: (Result.SENT_OUTPUT,),
    ActionKind.SEND_B: (Result.SENT_GRAD,),
    ActionKind.RECV_F: (Result.POSTED_OUTPUT,),
    ActionKind.RECV_B: (Result.POSTED_GRAD,),
}

SENT = {Result.OUTPUT: Result.SENT_OUTPUT, Result.INPUT_GRAD: Result.SENT_GRAD}
POSTED = {Result.OUTPUT: Result.POSTED_OUTPUT, Result.INPUT_GRAD: Result.POSTED_GRAD}

Table = dict[ActionKind, list[list[tuple[int, ...]]]]
"""For every kind in the plan, virtual stage and chunk: the numbers that belong to microbatch 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dependencies:
    """The rules above, numbered for one plan; add `microbatch * stride` to a table's numbers."""

    plan: Plan
    communicates: bool
    """Whether sends and receives are actions of the plan; else producers send by themselves."""
    needs: Table
    produces: Table
    stride: int
    num_results: int
    """One more than the largest number."""

    def describe(self, number: int) -> tuple[Result, int, int, int]:
        """What a number stands for: result, virtual stage, microbatch, chunk."""
        number, chunk = divmod(number, self.plan.num_chunks)
        number, microbatch = divmod(number, self.plan.num_microbatches)
        result, virtual_stage = divmod(number, self.plan.num_all_virtual_stages)
        return Result(result), virtual_stage, microbatch, chunk

    def needs_of(self, action: Action) -> list[int]:
        """The numbers of the results that an action needs."""
        shift = action.microbatch * self.stride
        return [base + shift for base in self.needs[action.kind][action.virtual_stage][action.chunk]]

    def produced_by(self, action: Action) -> list[int]:
        """The numbers of the results that an action produces."""
        shift = action.microbatch * self.stride
        return [base + shift for base in self.produces[action.kind][action.virtual_stage][action.chunk]]


def dependencies_of(plan: Plan) -> Dependencies:
    """The numbered dependencies of a plan, with or without its communication."""
    kinds = plan.kinds
    communicates = any(not kind.is_compute for kind in kinds)
    rows = range(plan.num_all_virtual_stages)
    return Dependencies(
        plan=plan,
        communicates=communicates,
        needs={kind: [_needs_row(plan, kind, row, communicates) for row in rows] for kind in kinds},
        produces={kind: [_results_row(plan, kind, row, communicates) for row in rows] for kind in kinds},
        stride=plan.num_chunks,
        num_results=first_number(plan, len(Result), 0),
    )


def first_number(plan: Plan, result: int, virtual_stage: int) -> int:
    """The number of a virtual stage's result for microbatch 0, chunk 0; those after it follow on."""
    row = result * plan.num_all_virtual_stages + virtual_stage
    return row * plan.num_microbatches * plan.num_chunks


def exists(plan: Plan, result: Result, virtual_stage: int) -> bool:
    """Whether a virtual stage has such a result: messages need a neighbour on another rank."""
    if result in (Result.SENT_OUTPUT, Result.POSTED_GRAD):
        return plan.num_stages > 1 and virtual_stage < plan.last_virtual_stage
    if result in (Result.SENT_GRAD, Result.POSTED_OUTPUT):
        return plan.num_stages > 1 and virtual_stage > 0
    return True


def _needs_row(plan: Plan, kind: ActionKind, virtual_stage: int, communicates: bool) -> list[tuple[int, ...]]:
    """What `kind` needs at a virtual stage, by chunk: own results, or messages of a neighbour."""
    starts: list[tuple[int, int]] = []  # a row of numbers, and the offset of the chunk in it
    for result, virtual_stage_offset, chunk_offset in NEEDS[kind]:
        source = virtual_stage + virtual_stage_offset
        if not 0 <= source <= plan.last_virtual_stage:
            continue
        if source == virtual_stage or plan.num_stages == 1:
            starts.append((first_number(plan, result, source), chunk_offset))
            continue
        if communicates:
            starts.append((first_number(plan, POSTED[result], virtual_stage), 0))
        starts.append((first_number(plan, SENT[result], source), 0))
    chunks = range(plan.num_chunks)
    return [
        tuple(start + chunk + offset for start, offset in starts if chunk + offset in chunks)
        for chunk in chunks
    ]


def _results_row(
    plan: Plan, kind: ActionKind, virtual_stage: int, communicates: bool
) -> list[tuple[int, ...]]:
    """What `kind` produces at a virtual stage, by chunk; nothing for a message to or from nowhere."""
    results = list(PRODUCES[kind])
    if not communicates:
        results += [SENT[result] for result in results if result in SENT]
    starts = [
        first_number(plan, result, virtual_stage) for result in results if exists(plan, result, virtual_stage)
    ]
    return [tuple(start + chunk for start in starts) for chunk in range(plan.num_chunks)]
