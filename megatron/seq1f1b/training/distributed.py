"""Joins the processes of a run and lays out Megatron-Core's parallel groups."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel
from torch.distributed.rendezvous import rendezvous

from megatron.seq1f1b.config import Config, Layout
from megatron.seq1f1b.errors import JoinError, first_line
from megatron.seq1f1b.training.agreement import check_agreement, own_facts
from megatron.seq1f1b.training.determinism import set_determinism
from megatron.seq1f1b.upstream import is_cpu_only


def join(config: Config, layout: Layout) -> None:
    """Join the process group (torchrun's environment, or a single process) and set the seeds."""
    set_determinism(config.training.deterministic_mode)
    timeout = timedelta(minutes=config.parallel.distributed_timeout_minutes)
    if config.parallel.tensor_model_parallel_size > 1:
        # Megatron-Core overlaps tensor-parallel messages by the order in which kernels are launched.
        os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    if not dist.is_initialized():
        if not is_cpu_only():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        backend = "gloo" if is_cpu_only() else "nccl"
        if "RANK" in os.environ:
            _join_others(config, backend, timeout)
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


def _join_others(config: Config, backend: str, timeout: timedelta) -> None:
    """Meet the other processes at MASTER_ADDR, and see that they run the same.

    Raises:
        AgreementError: they do not.
        JoinError: some did not come.
    """
    try:
        store, rank, world_size = _meet(timeout)
        check_agreement(own_facts(config), store, rank=rank, world_size=world_size)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
    except (dist.DistNetworkError, dist.DistStoreError) as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise JoinError(
            f"the {os.environ.get('WORLD_SIZE')} processes did not all meet at {where} within "
            f"{timeout.total_seconds():g} s (--distributed-timeout-minutes): {first_line(error)}; see that "
            "every node is up and can reach that host and port"
        ) from error


def _meet(timeout: timedelta) -> tuple[dist.Store, int, int]:
    """The store of this start, this process's rank and the number of processes.

    torchrun may keep its store when it starts the processes again, though rendezvous.py of torch 2.13
    says (line 189) that it does not: a process that reads an address of the last start finds nobody
    there. So every start has keys of its own.
    """
    store, rank, world_size = next(rendezvous("env://", timeout=timeout))
    store.set_timeout(timeout)
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"start-{start}", store), rank, world_size


def leave() -> None:
    """Give the parallel groups and the process group back."""
    parallel_state.destroy_model_parallel()
    if dist.is_initialized():
        dist.destroy_process_group()
