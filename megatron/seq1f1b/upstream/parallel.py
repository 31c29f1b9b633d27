"""Where this process stands in Megatron-Core's parallel groups."""

from __future__ import annotations

import torch.distributed as dist
from megatron.core import parallel_state


def pipeline_rank() -> int:
    """This process's pipeline stage."""
    return parallel_state.get_pipeline_model_parallel_rank()


def pipeline_group() -> dist.ProcessGroup:
    """The stages of this process's pipeline."""
    return parallel_state.get_pipeline_model_parallel_group()


def use_virtual_stages(num_virtual_stages: int) -> None:
    """Tell Megatron-Core how many model parts a rank has, for models of either kind in one process."""
    size = num_virtual_stages if num_virtual_stages > 1 else None
    parallel_state.set_virtual_pipeline_model_parallel_world_size(size)
