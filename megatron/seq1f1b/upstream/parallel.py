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
