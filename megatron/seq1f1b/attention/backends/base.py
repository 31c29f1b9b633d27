"""What an attention backend is: one kernel family behind two pure functions and a refusal.

A backend sees one chunk's queries and the keys and values of prefix and chunk. It keeps nothing
between calls; what its backward needs comes back to it as arguments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from megatron.seq1f1b.attention.gradients import KVGradients
from megatron.seq1f1b.attention.spans import Visibility


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionRequest:
    """What a run asks of its attention, known before the first step.

    Attributes:
        device_type: "cpu", "cuda".
        dtype: of queries, keys and values.
        head_dim: channels of one head.
        window: keys before itself that a query sees; None for all.
        dropout: probability with which attention weights are dropped while training.
        is_deterministic: whether equal inputs must give equal bits.
        has_documents: whether sequences are packed documents that do not see each other.
    """

    device_type: str
    dtype: torch.dtype
    head_dim: int
    window: int | None = None
    dropout: float = 0.0
    is_deterministic: bool = False
    has_documents: bool = False


class AttentionBackend(Protocol):
    """One family of kernels."""

    name: str

    def refusal(self, request: AttentionRequest) -> str | None:
        """Why this backend cannot serve the request, as a clause; None if it can."""
        ...

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        visibility: Visibility,
        softmax_scale: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Attention of one chunk.

        Args:
            query: "chunk batch heads head_dim".
            key: "batch groups rows head_dim", rows [0, chunk.stop) of the sequence; further rows
                are undefined.
            value: as key.
            visibility: which of the rows each query sees.
            softmax_scale: factor of the scores before the softmax.

        Returns:
            output, contiguous "chunk batch heads head_dim", and the log-sum-exp of the scores in
            whatever layout this backend's backward reads.
        """
        ...

    def backward(
        self,
        grad_output: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        output: torch.Tensor,
        log_sum_exp: torch.Tensor,
        *,
        visibility: Visibility,
        softmax_scale: float,
        gradients: KVGradients,
    ) -> torch.Tensor:
        """Gradient of the queries, "chunk batch heads head_dim"; those of keys go to `gradients`.

        Arguments are as `forward` took and returned them.
        """
        ...
