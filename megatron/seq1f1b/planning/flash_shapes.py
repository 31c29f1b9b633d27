"""What CUDA's kernels allocate where CPU's allocate something else, on fake tensors.

A dry run's tensors would choose kernels for CPU, but the run is meant for GPUs. `FlashShapes` makes
tensors of the shapes that `_flash_attention_forward` and `_flash_attention_backward` make, inside the
real chunked attention; `rms_norm` and `dropout` keep what the CUDA kernels keep.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch


class _Gradients(Protocol):
    def add(self, start: int, grad_key: torch.Tensor, grad_value: torch.Tensor) -> None: ...


class FlashShapes:
    """An attention backend that computes nothing."""

    name = "flash-shapes"

    def refusal(self, request: object) -> str | None:
        """It serves everything: nothing is computed."""
        return None

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        visibility: Any,
        **unused: object,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Output like the queries, and float32 log-sum-exps, "batch heads chunk"."""
        chunk, batch, heads, _ = query.shape
        output = torch.empty_like(query, memory_format=torch.contiguous_format)
        return output, query.new_empty((batch, heads, chunk), dtype=torch.float32)

    def backward(
        self,
        grad_output: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        output: torch.Tensor,
        log_sum_exp: torch.Tensor,
        *,
        visibility: Any,
        softmax_scale: float,
        gradients: _Gradients,
    ) -> torch.Tensor:
        """Gradient of the queries; inside, its float32 sum and one dK and dV per query head."""
        batch, heads, (groups, head_dim) = query.shape[1], query.shape[2], key.shape[1::2]
        rows = visibility.chunk.stop
        grad_query = torch.empty_like(query, memory_format=torch.contiguous_format)
        float32_sum = torch.empty_like(query, dtype=torch.float32)
        grad_keys = [key.new_empty((batch, groups, rows, head_dim)) for _ in range(2)]
        if heads != groups:
            per_head = [key.new_empty((batch, heads, rows, head_dim)) for _ in range(2)]
            del per_head
        del float32_sum
        gradients.add(0, *grad_keys)
        return grad_query


def rms_norm(
    tensor: torch.Tensor,
    normalized_shape: object,
    weight: torch.Tensor | None = None,
    eps: float | None = None,
) -> torch.Tensor:
    """Stands for `torch.nn.functional.rms_norm`; keeps its input and a float32 number per token."""
    normalized: torch.Tensor = _RmsNorm.apply(tensor, weight)
    return normalized


class _RmsNorm(torch.autograd.Function):
    """Shapes alone."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(tensor, tensor.new_empty(tensor.shape[:-1], dtype=torch.float32), weight)
        return torch.empty_like(tensor)

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        tensor, _, weight = ctx.saved_tensors
        return torch.empty_like(tensor), None if weight is None else torch.empty_like(weight)


def dropout(
    tensor: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> torch.Tensor:
    """Stands for `torch.nn.functional.dropout`; keeps a byte per element."""
    if not training or p == 0.0:
        return tensor
    dropped: torch.Tensor = _Dropout.apply(tensor)
    return dropped


class _Dropout(torch.autograd.Function):
    """Shapes alone."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(torch.empty_like(tensor, dtype=torch.bool))
        return torch.empty_like(tensor)

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(grad_output)
