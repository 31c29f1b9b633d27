"""The schedules by name, and `make_plan`, which refuses what a schedule cannot do."""

from __future__ import annotations

from collections.abc import Callable

from megatron.seq1f1b.errors import ConfigurationError
from megatron.seq1f1b.schedule.action import Action
from megatron.seq1f1b.schedule.forward_only import forward_only as forwards_alone
from megatron.seq1f1b.schedule.plan import Plan
from megatron.seq1f1b.schedule.seq1f1b import seq1f1b

GENERATORS: dict[str, Callable[..., tuple[tuple[Action, ...], ...]]] = {
    "1f1b": seq1f1b,
    "seq1f1b": seq1f1b,
}
SCHEDULE_NAMES = tuple(GENERATORS)
"""What `make_plan` and `--pipeline-schedule` accept."""


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
    """The compute plan of one schedule, without communication.

    Raises:
        ConfigurationError: no such schedule, or one that cannot do what is asked.
    """
    if name not in GENERATORS:
        raise ConfigurationError(f"no schedule {name!r}; there are {', '.join(SCHEDULE_NAMES)}")
    if max_pending_weight_grads is not None:
        raise ConfigurationError("only seq1f1b-zb delays weight gradients")
    if forward_only:
        actions = forwards_alone(
            stages=stages,
            microbatches=microbatches,
            chunks=chunks,
            virtual_stages=virtual_stages,
        )
    else:
        actions = GENERATORS[name](stages=stages, microbatches=microbatches, chunks=chunks)
    return Plan(
        name=name,
        num_stages=stages,
        num_microbatches=microbatches,
        num_chunks=chunks,
        num_virtual_stages=virtual_stages,
        forward_only=forward_only,
        actions=actions,
    )
