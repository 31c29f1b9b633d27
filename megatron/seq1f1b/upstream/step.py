"""What a schedule function borrows from Megatron-Core's own, gathered in one place.

Sources: `megatron/core/pipeline_parallel/schedules.py` and `megatron/core/utils.py`, 0.16.1. A
signature test guards every name used here.
"""

from __future__ import annotations

from megatron.core.pipeline_parallel.schedules import (
    check_first_val_step,
    custom_backward,
    forward_step,
    forward_step_calc_loss,
    get_forward_backward_func,
)
from megatron.core.utils import get_attr_wrapped_model, get_model_config

__all__ = [
    "check_first_val_step",
    "custom_backward",
    "forward_step",
    "forward_step_calc_loss",
    "get_attr_wrapped_model",
    "get_forward_backward_func",
    "get_model_config",
]
