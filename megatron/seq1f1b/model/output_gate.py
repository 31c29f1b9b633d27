"""Self-attention whose gate works in plain torch."""

from __future__ import annotations

import torch
from megatron.core.transformer.attention import SelfAttention


class GatedSelfAttention(SelfAttention):
    """Megatron-Core's, with `attention_output_gate`.

    Upstream's gate is compiled at its first call, for every length of a chunk anew.
    """

    def _apply_output_gate(self, x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        """Both "chunk batch heads*head_dim" in all; the gate's sigmoid is float32 or wider."""
        wide = torch.promote_types(gate.dtype, torch.float32)
        return (x * torch.sigmoid(gate.reshape(x.shape).to(wide))).to(x.dtype)
