"""The optimizer's state of a checkpoint, read whichever of Megatron-Core's optimizers wrote it.

The plain optimizers (optimizer.py, 0.16.1) and the distributed one (distrib_optimizer.py), in single and
in half precision, save the same values for every weight, under other names and at other places:

    form         master copy of weight NAME        where parameter groups and the loss scale are
    float32      none, the weight itself           param_groups
    half         optimizer.state.fp32_param.NAME   optimizer.param_groups, grad_scaler
    distributed  optimizer.state.param.NAME        optimizer.param_groups, grad_scaler

Averages and momenta are optimizer.state.exp_avg.NAME and the like in all of them. Where experts are on
processes of their own they have an optimizer of their own: groups stand in the list of both, and names
are the same. Of the groups only Adam's step is history, and it is one for all; the rest flags say.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Any

import torch
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedBase, ShardedTensorFactory
from megatron.core.optimizer import MegatronOptimizer

RESHARDABLE = "fully_reshardable"
"""The sharding under which the distributed optimizer saves tensors of the weights' shapes."""
_STATE = "optimizer.state."


class Form(Enum):
    """Whose state it is; the value is the name of master copies."""

    FLOAT32 = ""
    HALF = "fp32_param"
    DISTRIBUTED = "param"

    @staticmethod
    def of(*, is_distributed: bool, is_half: bool) -> Form:
        """The form of an optimizer, by what is asked of it."""
        if is_distributed:
            return Form.DISTRIBUTED
        return Form.HALF if is_half else Form.FLOAT32

    def master_of(self, weight: str) -> str:
        """The name of a weight in full precision; its own where there are no copies."""
        return weight if self is Form.FLOAT32 else f"{_STATE}{self.value}.{weight}"


def ask_for_masters(weights: dict[str, Any], there: Form) -> None:
    """Let the sharded weights of a model be filled from the master copies of a checkpoint."""
    for tensor in _tensors(weights):
        if isinstance(tensor.data, torch.nn.Parameter):
            tensor.key = there.master_of(tensor.key)


def ask_of(state: dict[Any, Any], *, own: Form, there: Form) -> None:
    """Let the sharded state of an optimizer of form `own` be filled from a checkpoint of form `there`."""
    prefix = f"{_STATE}{own.value}."
    for tensor in _tensors(state):
        if own is not Form.FLOAT32 and tensor.key.startswith(prefix):
            tensor.key = there.master_of(tensor.key.removeprefix(prefix))


def taken_from(
    found: dict[Any, Any], saved: dict[Any, Any], optimizer: MegatronOptimizer, *, own: Form
) -> dict[Any, Any]:
    """What `ask_of` brought, as `load_state_dict` of the optimizer takes it.

    Args:
        found: the state that was asked for, with its tensors.
        saved: what stands beside the tensors in the checkpoint, in the form of the optimizer that wrote it.
        optimizer: the one that will take it.
        own: its form.
    """
    chain = getattr(optimizer, "chained_optimizers", [optimizer])
    if len(chain) > 1:
        return {index: taken_from(found[index], saved, part, own=own) for index, part in enumerate(chain)}
    steps = [{"step": group["step"]} for group in _values_of(saved, "param_groups") if "step" in group]
    groups = chain[0].optimizer.state_dict()["param_groups"]
    for group in groups:
        group |= steps[0] if steps else {}
    if own is Form.FLOAT32:
        return {"state": found.get("state", {}), "param_groups": groups}
    scalers = [{"grad_scaler": state} for state in _values_of(saved, "grad_scaler")]
    scaler = scalers[0] if scalers else {}
    if own is Form.HALF:
        state = found.get("optimizer", {}).get("state", {})
        return {**found, **scaler, "optimizer": {"state": state, "param_groups": groups}}
    sharding = {"param_state_sharding_type": RESHARDABLE}
    return {**found, **scaler, **sharding, "optimizer": {"param_groups": groups}}


def _tensors(state: dict[Any, Any]) -> Iterator[Any]:
    for value in nested_values(state):
        if isinstance(value, ShardedBase | ShardedTensorFactory):
            yield value


def _values_of(saved: dict[Any, Any], name: str) -> Iterator[Any]:
    """What stands under a name, one by one, wherever that is."""
    for key, value in saved.items():
        if key == name:
            yield from value if isinstance(value, list) else [value]
        elif isinstance(value, dict):
            yield from _values_of(value, name)
