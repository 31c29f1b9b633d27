"""Activations of MLPs, in plain torch.

Megatron-Core's own are compiled at their first call, for every length of a chunk anew.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def squared_relu(x: torch.Tensor) -> torch.Tensor:
    """max(x, 0)^2."""
    return F.relu(x).square()


def quick_gelu(x: torch.Tensor) -> torch.Tensor:
    """GELU by a sigmoid: x sigmoid(1.702 x)."""
    return x * torch.sigmoid(1.702 * x)


def tanh_gelu(x: torch.Tensor) -> torch.Tensor:
    """GELU by its tanh approximation."""
    return F.gelu(x, approximate="tanh")
