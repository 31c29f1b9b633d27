"""What is in a checkpoint: weights and optimizer by their names in the whole model, and the rest.

Weights and optimizer states are Megatron-Core's sharded tensors, which know their place in the whole
model: any layout can read what any other wrote. Random states belong to a process.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import tensor_parallel
from megatron.core.dist_checkpointing import ShardedObject
from megatron.core.models.gpt import GPTModel

from megatron.seq1f1b.training.build import Trained
from megatron.seq1f1b.upstream import is_cpu_only
from megatron.seq1f1b.upstream.optimizer_forms import RESHARDABLE
from megatron.seq1f1b.upstream.optimizers import inner_optimizers
from megatron.seq1f1b.upstream.step import get_attr_wrapped_model

METADATA = {"distrib_optim_sharding_type": RESHARDABLE, "chained_optim_avoid_prefix": True}
"""The optimizer's states have the shapes of the weights, whichever optimizer holds them."""


def sharded_state(
    trained: Trained, *, has_optimizer: bool, has_rng: bool, is_loading: bool
) -> dict[str, Any]:
    """Every value of this process, for Megatron-Core's `dist_checkpointing` to save or to fill."""
    metadata = dict(METADATA)  # Megatron-Core adds the data-parallel group of this layout
    state: dict[str, Any] = {
        key: part.sharded_state_dict(metadata=metadata) for key, part in model_parts(trained).items()
    }
    if has_optimizer:
        for optimizer in inner_optimizers(trained.optimizer):
            # A run whose steps were all skipped has no moments yet, and its reader will look for them.
            optimizer.init_state_fn(optimizer.optimizer, optimizer.config)
        state["optimizer"] = trained.optimizer.sharded_state_dict(
            state, is_loading=is_loading, metadata=metadata
        )
        state["scheduler"] = {"num_steps": trained.scheduler.num_steps}
    if has_rng:
        state["rng"] = ShardedObject("rng", random_states(), (dist.get_world_size(),), (dist.get_rank(),))
    return state


def model_parts(trained: Trained) -> dict[str, GPTModel]:
    """The model parts of this process under the keys they have in a state."""
    parts = [get_attr_wrapped_model(part, "decoder", return_model_obj=True) for part in trained.parts]
    return {f"model{index}" if len(parts) > 1 else "model": part for index, part in enumerate(parts)}


def random_states() -> dict[str, Any]:
    """The state of every generator of this process."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": None if is_cpu_only() else torch.cuda.get_rng_state(),
        "tensor_parallel": tensor_parallel.get_cuda_rng_tracker().get_states(),
    }


def set_random_states(states: dict[str, Any]) -> None:
    """Set every generator of this process."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and not is_cpu_only():
        torch.cuda.set_rng_state(states["cuda"])
    tensor_parallel.get_cuda_rng_tracker().set_states(states["tensor_parallel"])
