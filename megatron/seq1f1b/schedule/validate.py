"""Proof that a plan can run: complete, every action once and in place, messages matched, no deadlock.

A plan that passes cannot deadlock on channels that deliver in order, and never reads a tensor that
does not exist. What an action needs stands in `dependencies.py` alone.
"""

from __future__ import annotations

from megatron.seq1f1b.errors import PlanError
from megatron.seq1f1b.schedule.action import Action, ActionKind
from megatron.seq1f1b.schedule.blame import fail, why_stuck
from megatron.seq1f1b.schedule.communication import receive_of
from megatron.seq1f1b.schedule.dependencies import (
    PRODUCES,
    Dependencies,
    Result,
    dependencies_of,
    exists,
    first_number,
)
from megatron.seq1f1b.schedule.matching import check_channels
from megatron.seq1f1b.schedule.plan import Plan
from megatron.seq1f1b.schedule.replay import DeadlockError, replay

_FORWARD_KINDS = (ActionKind.F, ActionKind.SEND_F, ActionKind.RECV_F)

_MAKERS = {
    Result.OUTPUT: ActionKind.F,
    Result.INPUT_GRAD: ActionKind.B,
    Result.WEIGHT_GRAD: ActionKind.W,
    Result.SENT_OUTPUT: ActionKind.SEND_F,
    Result.SENT_GRAD: ActionKind.SEND_B,
    Result.POSTED_OUTPUT: ActionKind.RECV_F,
    Result.POSTED_GRAD: ActionKind.RECV_B,
}


def validate_plan(plan: Plan) -> None:
    """Return only if the plan can run as it stands, with or without communication.

    Raises:
        PlanError: naming rank, position (from 0), action and reason, with the neighbourhood of the
            action drawn below.
    """
    _check_counts(plan)
    _check_places(plan)
    _check_size(plan)
    dependencies = dependencies_of(plan)
    _check_complete(dependencies, _check_each_once(dependencies))
    if dependencies.communicates:
        check_channels(plan)
    _check_runs(dependencies)


def _check_counts(plan: Plan) -> None:
    counts = {
        "num_stages": plan.num_stages,
        "num_microbatches": plan.num_microbatches,
        "num_chunks": plan.num_chunks,
        "num_virtual_stages": plan.num_virtual_stages,
    }
    for name, count in counts.items():
        if count < 1:
            raise PlanError(f"plan {plan.name!r}: {name} is {count}; it must be at least 1")
    if len(plan.actions) != plan.num_stages:
        raise PlanError(
            f"plan {plan.name!r} has {len(plan.actions)} lists of actions for {plan.num_stages} "
            "stages; write one list per pipeline rank"
        )


def _check_places(plan: Plan) -> None:
    """Every action exists in a plan of these counts, and stands on the rank it belongs to."""
    stages, last = plan.num_stages, plan.last_virtual_stage
    microbatches, chunks = plan.num_microbatches, plan.num_chunks
    for rank, actions in enumerate(plan.actions):
        for position, action in enumerate(actions):
            kind, virtual_stage, microbatch, chunk = action
            if (
                virtual_stage % stages != rank
                or not 0 <= virtual_stage <= last
                or not 0 <= microbatch < microbatches
                or not 0 <= chunk < chunks
                or (plan.forward_only and kind not in _FORWARD_KINDS)
            ):
                fail(plan, {rank: position}, _why_misplaced(plan, rank, action))


def _why_misplaced(plan: Plan, rank: int, action: Action) -> str:
    limits = (
        ("virtual stage", action.virtual_stage, plan.num_all_virtual_stages),
        ("microbatch", action.microbatch, plan.num_microbatches),
        ("chunk", action.chunk, plan.num_chunks),
    )
    for what, value, count in limits:
        if not 0 <= value < count:
            ranks = f" on {plan.num_stages} ranks" if what == "virtual stage" else ""
            return f"there is no {what} {value}; the plan has {count}{ranks}, counted from 0"
    if action.virtual_stage % plan.num_stages != rank:
        home = plan.rank_of(action.virtual_stage)
        return f"virtual stage {action.virtual_stage} lives on rank {home}, not on rank {rank}"
    return "a forward-only plan has no backward"


def _check_size(plan: Plan) -> None:
    """Name a missing forward before tables are made for more units than there are actions."""
    num_units = plan.num_all_virtual_stages * plan.num_microbatches * plan.num_chunks
    if num_units <= sum(map(len, plan.actions)):
        return
    present = {action for actions in plan.actions for action in actions}
    every = (
        Action(ActionKind.F, virtual_stage, microbatch, chunk)
        for virtual_stage in range(plan.num_all_virtual_stages)
        for microbatch in range(plan.num_microbatches)
        for chunk in range(plan.num_chunks)
    )
    _fail_missing(plan, next(action for action in every if action not in present))


def _check_each_once(dependencies: Dependencies) -> bytearray:
    """No result is produced twice or by an impossible action; returns which results there are."""
    plan, stride = dependencies.plan, dependencies.stride
    done = bytearray(dependencies.num_results)
    for rank, actions in enumerate(plan.actions):
        for position, (kind, virtual_stage, microbatch, chunk) in enumerate(actions):
            bases = dependencies.produces[kind][virtual_stage][chunk]
            if not bases:
                fail(plan, {rank: position}, "no other rank is at the other end of this message")
            for base in bases:
                if done[base + microbatch * stride]:
                    fail(plan, {rank: position}, _why_twice(plan, rank, position))
                done[base + microbatch * stride] = 1
    return done


def _why_twice(plan: Plan, rank: int, position: int) -> str:
    action = plan.actions[rank][position]
    results = set(PRODUCES[action.kind])
    earlier, other = next(
        (earlier, other)
        for earlier, other in enumerate(plan.actions[rank])
        if other[1:] == action[1:] and results & set(PRODUCES[other.kind])
    )
    if other == action:
        return f"it stands at position {earlier} already"
    return f"{other} at position {earlier} computes the same; use B alone, or I and W"


def _check_complete(dependencies: Dependencies, done: bytearray) -> None:
    """Every result that a step consists of is produced by some action."""
    plan = dependencies.plan
    units = plan.num_microbatches * plan.num_chunks
    for result in Result:
        kind = _MAKERS[result]
        if plan.forward_only and kind not in _FORWARD_KINDS:
            continue
        if not kind.is_compute and not dependencies.communicates:
            continue
        for virtual_stage in range(plan.num_all_virtual_stages):
            if not exists(plan, result, virtual_stage):
                continue
            start = first_number(plan, result, virtual_stage)
            missing = done.find(0, start, start + units)
            if missing >= 0:
                microbatch, chunk = divmod(missing - start, plan.num_chunks)
                action = Action(kind, virtual_stage, microbatch, chunk)
                _fail_missing(plan, action, _wanted_at(dependencies, plan.rank_of(virtual_stage), missing))


def _wanted_at(dependencies: Dependencies, rank: int, missing: int) -> int | None:
    """Where the rank first needs a result; None where it never does."""
    actions = enumerate(dependencies.plan.actions[rank])
    return next((place for place, action in actions if missing in dependencies.needs_of(action)), None)


def _fail_missing(plan: Plan, action: Action, wanted_at: int | None = None) -> None:
    rank = plan.rank_of(action.virtual_stage)
    if action.kind.is_send:
        receive = receive_of(action)
        peer = plan.rank_of(receive.virtual_stage)
        if receive in plan.actions[peer]:
            position = plan.actions[peer].index(receive)
            fail(plan, {peer: position}, f"rank {rank} never sends it: {action} is missing")
    why = f"{action} is missing"
    if wanted_at is not None:
        why += f"; {plan.actions[rank][wanted_at]} needs it"
    if not action.kind.is_compute:
        why += "; a plan with any message must have them all, and one without any gets them by itself"
    fail(plan, {rank: len(plan.actions[rank]) if wanted_at is None else wanted_at}, why, action=action)


def _check_runs(dependencies: Dependencies) -> None:
    """Replay the plan to its end."""
    try:
        for _ in replay(dependencies):
            pass
    except DeadlockError as deadlock:
        marks, why = why_stuck(dependencies, deadlock)
        fail(dependencies.plan, marks, why)
