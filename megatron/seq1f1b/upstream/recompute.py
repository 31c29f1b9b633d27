"""Recomputation of parts of Megatron-Core's layers, where its release gets it wrong."""

from __future__ import annotations

import torch
from megatron.core.tensor_parallel.random import CheckpointWithoutOutput
from megatron.core.transformer.mlp import MLP
from megatron.core.transformer.module import MegatronModule


def mend_recompute(model: MegatronModule) -> None:
    """Let feed-forward parts with biases, and norms without Transformer Engine, be recomputed."""
    _mend_mlp_recompute(model)
    if "layernorm" in model.config.recompute_modules:
        _mend_norm_recompute()


def _mend_norm_recompute() -> None:
    """Let norms be recomputed without asking Transformer Engine whether it computes in 8 bits.

    Megatron-Core takes any recipe that "is not None" for one, its own default of False included, and
    then calls Transformer Engine, installed or not (0.16.1, `recompute_modules` with `layernorm`).
    """
    CheckpointWithoutOutput.__init__.__defaults__ = (None,)


def _mend_mlp_recompute(model: torch.nn.Module) -> None:
    """Let the model's `MLP`s hand on a copy of their output bias instead of the parameter.

    Megatron-Core adds that bias later, with dropout. Returned from a recomputed function, the
    parameter itself becomes an output of that function in autograd's graph, whose backward then
    calls itself until the stack ends (0.16.1, `recompute_modules` with `mlp`).
    """
    for module in model.modules():
        if isinstance(module, MLP) and module.linear_fc2.bias is not None:
            module.register_forward_hook(_hand_on_a_copy)


def _hand_on_a_copy(
    module: torch.nn.Module, inputs: object, returned: tuple[torch.Tensor, torch.Tensor | None]
) -> tuple[torch.Tensor, torch.Tensor | None]:
    output, bias = returned
    return output, None if bias is None else bias.clone()
