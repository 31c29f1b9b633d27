"""Mends of Megatron-Core's mixture of experts, 0.16.1: what it needs without Transformer Engine or CUDA."""

from __future__ import annotations

import torch
from megatron.core.transformer.moe import moe_utils, token_dispatcher
from megatron.core.transformer.moe.router import TopKRouter

from megatron.seq1f1b.upstream.cpu import is_cpu_only


def mend_experts() -> None:
    """Patch what is broken; harmless when called again.

    Without Transformer Engine moe_utils.py (line 1192) reads a name that it never sets. On CPU
    token_dispatcher.py gives all-to-all its sizes as tensors, which nothing takes, and router.py
    compiles one line at its first call, which takes a C++ compiler and most of a minute.
    """
    if not hasattr(moe_utils, "te_general_gemm"):
        moe_utils.te_general_gemm = None
    if is_cpu_only():
        token_dispatcher.maybe_move_tensor_to_cpu = _on_cpu
        compiled = TopKRouter._apply_expert_bias
        TopKRouter._apply_expert_bias = getattr(compiled, "_torchdynamo_orig_callable", compiled)


def _on_cpu(tensor: object, as_numpy: bool = False, record_stream: bool = False) -> object:
    """Stands in for `maybe_move_tensor_to_cpu`, which leaves tensors of the CPU as they are."""
    return tensor.numpy() if as_numpy and isinstance(tensor, torch.Tensor) else tensor
