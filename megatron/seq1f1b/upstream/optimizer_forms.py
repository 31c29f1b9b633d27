"""The optimizer's state of a checkpoint, read whichever of Megatron-Core's optimizers wrote it.

The plain optimizers (optimizer.py, 0.16.1) and the distributed one (distrib_optimizer.py) save the same
values for every weight, under other names and at other places:

    form         master copy of weight NAME        where parameter groups and the loss scale are
    float32      none, the weight itself           param_groups
    half         optimizer.state.fp32_param.NAME   optimizer.param_groups, grad_scaler
    distributed  optimizer.state.param.NAME        optimizer.param_groups, grad_scaler

Adam's two averages are optimizer.state.exp_avg.NAME and ...exp_avg_sq.NAME in all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Any

from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedBase, ShardedTensorFactory
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

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


def asked_of(state: dict[Any, Any], *, own: Form, there: Form) -> dict[Any, Any]:
    """The sharded state of an optimizer of form `own`, naming what a checkpoint of form `there` has.

    Args:
        state: of Megatron-Core's `sharded_state_dict`; changed in place where forms differ.
        own: the form of the optimizer that will take the values.
        there: that of the one that saved them.
    """
    if own is there:
        return state
    if _is_chain(state):
        return {index: asked_of(part, own=own, there=there) for index, part in state.items()}
    if there is Form.FLOAT32:
        for values in state["param_state"].values():
            del values[own.value]  # `taken_from` fills it in
    else:
        for tensor in nested_values(state):
            if isinstance(tensor, ShardedBase | ShardedTensorFactory):
                tensor.key = tensor.key.replace(f"{_STATE}{own.value}.", f"{_STATE}{there.value}.", 1)
    return {"optimizer": state} if own is Form.FLOAT32 else state


def taken_from(
    loaded: dict[Any, Any], optimizer: MegatronOptimizer, *, own: Form, there: Form
) -> dict[Any, Any]:
    """What `asked_of` brought, as `load_state_dict` of the optimizer takes it.

    The weights must have been loaded before.
    """
    if own is there:
        return loaded
    if _is_chain(loaded):
        chain = optimizer.chained_optimizers
        return {
            index: taken_from(loaded[index], part, own=own, there=there) for index, part in enumerate(chain)
        }
    if own is Form.FLOAT32:
        inner: dict[Any, Any] = loaded["optimizer"]
        return inner
    if own is Form.DISTRIBUTED:
        loaded["param_state_sharding_type"] = RESHARDABLE
    if there is Form.FLOAT32:
        loaded["optimizer"] = {"param_groups": loaded.pop("param_groups")}
        for index, weight in enumerate(_weights(optimizer)):
            loaded["param_state"][index][own.value] = weight.detach()
    return loaded


def _is_chain(state: dict[Any, Any]) -> bool:
    """Whether it is of several optimizers, as experts on processes of their own have one."""
    return all(isinstance(key, int) for key in state)


def _weights(optimizer: MegatronOptimizer) -> Iterator[Any]:
    """In the order in which `sharded_param_state_fully_reshardable` numbers them."""
    (inner,) = getattr(optimizer, "chained_optimizers", [optimizer])
    assert isinstance(inner, DistributedOptimizer)
    for buffer in inner.buffers:
        yield from buffer.param_index_map
