"""Joins the processes of a run and lays out Megatron-Core's parallel groups."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel

from megatron.seq1f1b.config import Config, Layout
from megatron.seq1f1b.upstream import is_cpu_only


def join(config: Config, layout: Layout) -> None:
    """Join the process group (torchrun's environment, or a single process) and set the seeds."""
    timeout = timedelta(minutes=config.parallel.distributed_timeout_minutes)
    if config.parallel.tensor_model_parallel_size > 1:
        # Megatron-Core overlaps tensor-parallel messages by the order in which kernels are launched.
        os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    if not dist.is_initialized():
        if not is_cpu_only():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        backend = "gloo" if is_cpu_only() else "nccl"
        if "RANK" in os.environ:
            dist.init_process_group(backend, timeout=timeout)
        else:
            store = dist.HashStore()
            dist.init_process_group(backend, store=store, rank=0, world_size=1, timeout=timeout)
    virtual = layout.num_virtual_stages
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=config.parallel.tensor_model_parallel_size,
        pipeline_model_parallel_size=config.parallel.pipeline_model_parallel_size,
        virtual_pipeline_model_parallel_size=virtual if virtual > 1 else None,
        expert_model_parallel_size=config.experts.expert_model_parallel_size,
        distributed_timeout_minutes=config.parallel.distributed_timeout_minutes,
    )
    tensor_parallel.model_parallel_cuda_manual_seed(config.training.seed)


def leave() -> None:
    """Give the parallel groups and the process group back."""
    parallel_state.destroy_model_parallel()
    if dist.is_initialized():
        dist.destroy_process_group()
