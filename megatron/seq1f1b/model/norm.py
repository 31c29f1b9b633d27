"""LayerNorm and RMSNorm of torch in the place of Megatron-Core's, which need CUDA extensions.

Megatron-Core's own wrapper of torch's norms refuses sequence parallelism; all it takes is to mark
the parameters, whose gradients are then summed over the tensor-parallel group.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from megatron.core.transformer.transformer_config import TransformerConfig


class Norm:
    """Builds the norm a configuration names; signature of a Megatron-Core spec's norm."""

    def __new__(  # type: ignore[misc]
        cls, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **unused: object
    ) -> torch.nn.Module:
        """torch.nn.LayerNorm or torch.nn.RMSNorm over the last dimension, [..., hidden]."""
        norms = {"LayerNorm": torch.nn.LayerNorm, "RMSNorm": torch.nn.RMSNorm}
        if config.layernorm_zero_centered_gamma:
            norms = {"LayerNorm": _LayerNormFromOne, "RMSNorm": _RMSNormFromOne}
        norm = norms[config.normalization](
            hidden_size,
            eps=eps,
            dtype=config.params_dtype,
            device=None if config.use_cpu_initialization else torch.cuda.current_device(),
        )
        for parameter in norm.parameters():
            parameter.sequence_parallel = config.sequence_parallel
        return norm


class L2Norm(torch.nn.RMSNorm):
    """Scales the last dimension to a mean square of 1; Megatron-Core's is compiled at its first call."""

    def __init__(self, hidden_size: int, eps: float = 1e-6, **unused: object) -> None:
        super().__init__(hidden_size, eps=eps, elementwise_affine=False)


class _LayerNormFromOne(torch.nn.LayerNorm):
    """Scales by 1 + weight, in float32 or wider, where small weights are not lost beside the 1."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide, weight, bias = (_wide(each) for each in (x, self.weight, self.bias))
        return F.layer_norm(wide, self.normalized_shape, weight + 1, bias, self.eps).to(x.dtype)


class _RMSNormFromOne(torch.nn.RMSNorm):
    """The same without centring."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(_wide(x), self.normalized_shape, _wide(self.weight) + 1, self.eps).to(x.dtype)


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
