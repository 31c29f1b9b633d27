"""When data-parallel communication may start: Megatron-Core's no_sync, grad_sync and param_sync functions.

With overlapped reduction Megatron-Core's DDP starts to reduce a bucket when all its gradients have
been computed once, so it must know which backward is the last of a part. Where backward is split
that is the last I; of the weight gradients that wait, only the last W's is shown to DDP.

`grad_sync_func` replaces that start: as in Megatron-Core's schedules it is called once a part's last
backward is over, in the bubble, except on the first stage, which has none and overlaps with the
backward itself. `param_sync_func` is called for a part ahead of the forward that needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from megatron.seq1f1b.errors import ConfigurationError
from megatron.seq1f1b.runtime.executor import Unit
from megatron.seq1f1b.schedule import ActionKind, Plan

_Sync = Callable[[Iterable[torch.nn.Parameter]], object]


class GradientSync:
    """Of the model parts of one pipeline rank, for one step; does nothing in forward-only plans.

    Raises:
        ConfigurationError: functions in the configuration that do not fit the model parts.
    """

    def __init__(self, parts: Sequence[torch.nn.Module], plan: Plan, rank: int, config: Any) -> None:
        self._parts = parts
        self._plan = plan
        self._last_backward = _last_units(plan, rank, ActionKind.B, ActionKind.I)
        self.last_weight = _last_units(plan, rank, ActionKind.B, ActionKind.W)
        """By virtual stage, the unit whose weight gradients are its part's last."""
        self._no_sync = _per_part("no_sync_func", config.no_sync_func, parts) or [
            getattr(part, "no_sync", nullcontext) for part in parts
        ]
        self._grad_sync: list[_Sync] | None = _shared("grad_sync_func", config.grad_sync_func, parts)
        self._param_sync: list[_Sync] | None = _shared("param_sync_func", config.param_sync_func, parts)
        self._starts_early = self._grad_sync is None or (rank == 0 and len(parts) == 1)
        self._held: dict[int, AbstractContextManager[object]] = {}
        self._num_gathering = 0

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within, reduction is held back until each part's last backward, also where the step fails."""
        try:
            for virtual_stage in self._last_backward:
                held = self._no_sync[self._plan.model_part_of(virtual_stage)]()
                held.__enter__()
                self._held[virtual_stage] = held
            self._gather_until(1)
            yield
        finally:
            for virtual_stage in list(self._held):
                self._release(virtual_stage)

    def before_forward(self, unit: Unit) -> None:
        """Start to gather the parameters of the part after the unit's."""
        self._gather_until(self._plan.model_part_of(unit.virtual_stage) + 1)

    def before_backward(self, unit: Unit) -> None:
        """Let the part reduce its gradients as they come, if `unit` is its last backward."""
        if self._starts_early and self._last_backward.get(unit.virtual_stage) == unit:
            self._release(unit.virtual_stage)

    def after_weights(self, unit: Unit) -> None:
        """Start the part's reduction, if `unit`'s were its last gradients and nothing else starts it."""
        if self._starts_early or self.last_weight.get(unit.virtual_stage) != unit:
            return
        self._release(unit.virtual_stage)
        assert self._grad_sync is not None
        part = self._plan.model_part_of(unit.virtual_stage)
        self._grad_sync[part](self._parts[part].parameters())

    def _release(self, virtual_stage: int) -> None:
        self._held.pop(virtual_stage).__exit__(None, None, None)

    def _gather_until(self, part: int) -> None:
        """Start to gather the parameters of all parts up to `part`."""
        if self._param_sync is None or self._plan.forward_only:
            return
        while self._num_gathering <= min(part, len(self._parts) - 1):
            self._param_sync[self._num_gathering](self._parts[self._num_gathering].parameters())
            self._num_gathering += 1


def _last_units(plan: Plan, rank: int, *kinds: ActionKind) -> dict[int, Unit]:
    """For every virtual stage of a rank, the unit of its last action of these kinds."""
    return {action.virtual_stage: Unit(*action[1:]) for action in plan.actions[rank] if action.kind in kinds}


def _per_part(name: str, given: Any, parts: Sequence[torch.nn.Module]) -> list[Any] | None:
    """One function per part; None where none is set."""
    functions = list(given) if isinstance(given, list | tuple) else [given]
    if given is not None and len(functions) != len(parts):
        raise ConfigurationError(
            f"config.{name} holds {len(functions)} functions for {len(parts)} model parts; give a list of "
            "one per part, as [part.no_sync for part in model]"
        )
    return None if given is None else functions


def _shared(name: str, given: Any, parts: Sequence[torch.nn.Module]) -> list[Any] | None:
    """One function per part, where a single one serves all; None where none is set."""
    if given is None or isinstance(given, list | tuple):
        return _per_part(name, given, parts)
    return [given] * len(parts)
