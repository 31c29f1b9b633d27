"""The schedules by name, and `make_plan`, which refuses what a schedule cannot do."""

from __future__ import annotations

import difflib

from megatron.seq1f1b.errors import ConfigurationError
from megatron.seq1f1b.schedule.action import Action
from megatron.seq1f1b.schedule.forward_only import forward_only as forwards_alone
from megatron.seq1f1b.schedule.plan import Plan
from megatron.seq1f1b.schedule.seq1f1b import seq1f1b
from megatron.seq1f1b.schedule.seq1f1b_interleaved import seq1f1b_interleaved
from megatron.seq1f1b.schedule.zero_bubble import zero_bubble

SCHEDULE_NAMES = ("1f1b", "interleaved", "seq1f1b", "seq1f1b-interleaved", "seq1f1b-zb")
"""What `make_plan` and `--pipeline-schedule` accept."""

_CHUNKED = {"1f1b": "seq1f1b", "interleaved": "seq1f1b-interleaved"}
"""For the schedules of whole sequences, the one that takes chunks."""

_INTERLEAVED = {
    "1f1b": "interleaved",
    "seq1f1b": "seq1f1b-interleaved",
    "seq1f1b-zb": "seq1f1b-interleaved",
}
"""For the schedules of one model part per stage, the one that takes virtual stages."""


MAX_ACTIONS = 100_000_000
"""Forwards and backwards of the largest plan that is made; memory for more is rarely there."""


def make_plan(
    name: str,
    *,
    stages: int,
    microbatches: int,
    chunks: int,
    virtual_stages: int = 1,
    forward_only: bool = False,
    max_pending_weight_grads: int | None = None,
) -> Plan:
    """The compute plan of one schedule; `add_communication` completes it for the runtime.

    Args:
        name: one of `SCHEDULE_NAMES`.
        stages: p, pipeline ranks.
        microbatches: m, per step and data-parallel rank.
        chunks: k, per microbatch; `1f1b` and `interleaved` take 1 alone.
        virtual_stages: v, model parts per stage; 1 is accepted by every schedule.
        forward_only: plan an evaluation instead of a training step.
        max_pending_weight_grads: with `seq1f1b-zb`, the most weight gradients a stage may put off;
            by default s on stage s, which needs no more memory than Seq1F1B's stage 0.

    Raises:
        ConfigurationError: no such schedule, or one that cannot do what is asked.
    """
    check_schedule(
        name,
        stages=stages,
        microbatches=microbatches,
        chunks=chunks,
        virtual_stages=virtual_stages,
        max_pending_weight_grads=max_pending_weight_grads,
    )
    counts = {"stages": stages, "microbatches": microbatches, "chunks": chunks}
    if forward_only:
        actions = forwards_alone(**counts, virtual_stages=virtual_stages)
    elif name == "seq1f1b-zb":
        actions = zero_bubble(**counts, max_pending_weight_grads=max_pending_weight_grads)
    elif virtual_stages > 1:
        actions = seq1f1b_interleaved(**counts, virtual_stages=virtual_stages)
    else:
        actions = seq1f1b(**counts)
    return _plan(name, actions, virtual_stages=virtual_stages, forward_only=forward_only, **counts)


def check_schedule(
    name: str,
    *,
    stages: int,
    microbatches: int,
    chunks: int,
    virtual_stages: int = 1,
    max_pending_weight_grads: int | None = None,
) -> None:
    """Refuse what `make_plan` would refuse, without making the plan.

    Raises:
        ConfigurationError: with the numbers, the reason and what to use instead.
    """
    if name not in SCHEDULE_NAMES:
        raise ConfigurationError(_unknown(name))
    counts = {
        "stages": stages,
        "microbatches": microbatches,
        "chunks": chunks,
        "virtual stages": virtual_stages,
    }
    for what, count in counts.items():
        if count < 1:
            raise ConfigurationError(f"{count} {what} cannot be scheduled; use at least 1")
    num_actions = 2 * stages * virtual_stages * microbatches * chunks
    if num_actions > MAX_ACTIONS:
        raise ConfigurationError(
            f"{stages} stages x {virtual_stages} virtual stages x {microbatches} microbatches x {chunks} "
            f"chunks make a plan of {num_actions:,} forwards and backwards, and more than {MAX_ACTIONS:,} "
            "do not fit in memory; use fewer microbatches or chunks"
        )
    if chunks > 1 and name in _CHUNKED:
        raise ConfigurationError(
            f"schedule {name} runs whole sequences and cannot take {chunks} chunks; "
            f"use {_CHUNKED[name]}, or 1 chunk"
        )
    if virtual_stages > 1 and name in _INTERLEAVED:
        raise ConfigurationError(
            f"schedule {name} has one model part per stage and cannot take {virtual_stages} "
            f"virtual stages; use {_INTERLEAVED[name]}, or 1 virtual stage"
        )
    if name == "interleaved" and virtual_stages > 1:
        _check_upstream_interleaved(stages, microbatches, virtual_stages)
    if max_pending_weight_grads is not None:
        _check_pending(name, max_pending_weight_grads)


def _check_upstream_interleaved(stages: int, microbatches: int, virtual_stages: int) -> None:
    if stages == 1:
        raise ConfigurationError(
            f"schedule interleaved with {virtual_stages} virtual stages needs at least 2 stages "
            "in Megatron-Core; use 1 virtual stage on a single stage"
        )
    if microbatches % stages != 0:
        below, above = microbatches - microbatches % stages, -(-microbatches // stages) * stages
        raise ConfigurationError(
            f"schedule interleaved takes microbatches in groups of {stages}, one per stage, and "
            f"{microbatches} is no multiple of that; use {f'{below} or ' if below else ''}{above} "
            "microbatches, or seq1f1b-interleaved, which takes any number"
        )


def _check_pending(name: str, max_pending_weight_grads: int) -> None:
    if name != "seq1f1b-zb":
        raise ConfigurationError(
            f"schedule {name} puts off no weight gradients, so a bound of "
            f"{max_pending_weight_grads} on them means nothing; use seq1f1b-zb, or no bound"
        )
    if max_pending_weight_grads < 0:
        raise ConfigurationError(
            f"{max_pending_weight_grads} pending weight gradients are impossible; use 0 or more"
        )


def _unknown(name: str) -> str:
    parts = [known for known in SCHEDULE_NAMES if name and known.endswith(f"-{name.lower()}")]
    close = parts or difflib.get_close_matches(name.lower(), SCHEDULE_NAMES, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]}?" if close else ""
    if "." in name or "/" in name:
        hint = "; the name of a plan's file ends in .csv"
    return f"schedule {name!r} does not exist{hint} (there are {', '.join(SCHEDULE_NAMES)})"


def _plan(
    name: str,
    actions: tuple[tuple[Action, ...], ...],
    *,
    stages: int,
    microbatches: int,
    chunks: int,
    virtual_stages: int,
    forward_only: bool,
) -> Plan:
    return Plan(
        name=name,
        num_stages=stages,
        num_microbatches=microbatches,
        num_chunks=chunks,
        num_virtual_stages=virtual_stages,
        forward_only=forward_only,
        actions=actions,
    )
