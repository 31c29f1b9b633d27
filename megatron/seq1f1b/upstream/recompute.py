"""Recomputation of Megatron-Core's feed-forward parts where they have biases."""

from __future__ import annotations

import torch
from megatron.core.transformer.mlp import MLP


def mend_mlp_recompute(model: torch.nn.Module) -> None:
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
