"""LayerNorm and RMSNorm of torch in the place of Megatron-Core's, which need CUDA extensions.

Megatron-Core's own wrapper of torch's norms refuses sequence parallelism; all it takes is to mark
the parameters, whose gradients are then summed over the tensor-parallel group.
"""

from __future__ import annotations

import torch
from megatron.core.transformer.transformer_config import TransformerConfig


class Norm:
    """Builds the norm a configuration names; signature of a Megatron-Core spec's norm."""

    def __new__(  # type: ignore[misc]
        cls, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **unused: object
    ) -> torch.nn.Module:
        """torch.nn.LayerNorm or torch.nn.RMSNorm over the last dimension, [..., hidden]."""
        norms = {"LayerNorm": torch.nn.LayerNorm, "RMSNorm": torch.nn.RMSNorm}
        norm = norms[config.normalization](
            hidden_size,
            eps=eps,
            dtype=config.params_dtype,
            device=None if config.use_cpu_initialization else torch.cuda.current_device(),
        )
        for parameter in norm.parameters():
            parameter.sequence_parallel = config.sequence_parallel
        return norm
