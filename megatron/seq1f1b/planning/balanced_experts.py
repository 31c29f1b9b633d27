"""Experts that each get as many tokens as any other: what a dry run assumes of its routers.

Where a router sends tokens is in the data, and fake tensors have none: neither how many tokens a mask
selects nor a list of counts can be read from them. Within, masks of tokens by experts select the
balanced number, and dispatcher and experts are told balanced counts. Everything else is
Megatron-Core's own code.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch
from megatron.core.transformer.moe.experts import SequentialMLP
from megatron.core.transformer.moe.token_dispatcher import MoEAlltoAllTokenDispatcher

from megatron.seq1f1b.model.flops import Experts


@contextlib.contextmanager
def balanced_experts(experts: Experts | None) -> Iterator[None]:
    """Route evenly; without experts, nothing changes."""
    if experts is None:
        yield
        return
    share = experts.topk / experts.num_experts
    compute = SequentialMLP.forward

    def masked_select(tensor: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The balanced number of a mask's entries, "experts tokens"."""
        selected: torch.Tensor = _Selected.apply(tensor, mask, round(mask.numel() * share))
        return selected

    def forward(
        layer: SequentialMLP, hidden: torch.Tensor, counts: object, probabilities: torch.Tensor
    ) -> tuple[torch.Tensor, None]:
        """As many tokens for each local expert."""
        return compute(layer, hidden, _even(len(hidden), layer.num_local_experts), probabilities)

    with (
        mock.patch.object(torch.Tensor, "masked_select", masked_select),
        mock.patch.object(SequentialMLP, "forward", forward),
        mock.patch.object(MoEAlltoAllTokenDispatcher, "preprocess", _balance),
    ):
        yield


def _balance(dispatcher: MoEAlltoAllTokenDispatcher, routing_map: torch.Tensor) -> np.ndarray:
    """Stands in for `preprocess`, which counts the tokens between every two ranks."""
    ranks, tensor_parallel = dispatcher.ep_size, dispatcher.tp_size
    sent = routing_map.shape[0] * dispatcher.config.moe_router_topk
    dispatcher.num_out_tokens = sent
    to_ranks = _even(sent, ranks)
    if ranks > 1 or tensor_parallel > 1:
        dispatcher.input_splits = dispatcher.output_splits = to_ranks.tolist()
        dispatcher.output_splits_tp = np.full(tensor_parallel, sent)
    by_expert = np.stack([_even(sent // ranks, dispatcher.num_local_experts)] * (ranks * tensor_parallel))
    dispatcher.num_global_tokens_per_local_expert = by_expert
    # Kept as tensors, which here are fake and cannot be read.
    order = np.arange(dispatcher.num_experts * tensor_parallel)
    dispatcher.sort_input_by_local_experts = order.reshape(-1, dispatcher.num_local_experts).T.ravel()
    dispatcher.restore_output_by_local_experts = order.reshape(dispatcher.num_local_experts, -1).T.ravel()
    return by_expert.sum(axis=0)


def _even(number: int, parts: int) -> np.ndarray:
    """Counts that add up to `number` and differ by at most one."""
    return np.diff(np.arange(parts + 1) * number // parts)


class _Selected(torch.autograd.Function):
    """Shapes alone; keeps the mask, as `masked_select` does."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, mask: torch.Tensor, number: int) -> torch.Tensor:
        ctx.save_for_backward(mask)
        return tensor.new_empty(number)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (mask,) = ctx.saved_tensors
        return gradient.new_empty(mask.shape), None, None
