"""`--deterministic-mode`: the same bits from the same run, on GPUs, too."""

from __future__ import annotations

import os

import torch
import torch.utils.deterministic


def set_determinism(is_deterministic: bool) -> None:
    """Let this process use kernels alone that always give the same bits, or any; before the first kernel.

    An operation that has no such kernel raises. Attention backends that have none are refused by
    name where they are chosen, from Megatron-Core's `deterministic_mode`.
    """
    torch.use_deterministic_algorithms(is_deterministic)
    torch.backends.cudnn.deterministic = is_deterministic
    if is_deterministic:
        # Nothing here reads memory that was not written, so none need be filled.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = False
        # cuBLAS and NCCL choose how they sum; these settings make them choose alike.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        os.environ.setdefault("NCCL_ALGO", "Ring")
