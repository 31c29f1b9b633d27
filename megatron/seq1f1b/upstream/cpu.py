"""Let Megatron-Core train on CPU, where it was written for CUDA alone.

Megatron-Core asks for `device="cuda"` in its factories, reads CUDA's random state and compares
`Tensor.type()` with names of CUDA types. Each patch below maps one such request to the CPU and
names the upstream files it serves. Nothing is patched where a CUDA device exists.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import nullcontext
from typing import ParamSpec, TypeVar

import torch
import torch.distributed as dist

_P = ParamSpec("_P")
_R = TypeVar("_R")

_FACTORIES = ("tensor", "zeros", "ones", "empty", "full", "arange", "rand", "randn", "zeros_like")
_is_installed = False


def is_cpu_only() -> bool:
    """Whether this process has no CUDA device."""
    return not torch.cuda.is_available()


def install_cpu_support() -> None:
    """Patch torch so that Megatron-Core runs on CPU; call before `megatron.core` is imported.

    Does nothing where a CUDA device exists, or when called again.
    """
    global _is_installed
    if _is_installed or not is_cpu_only():
        return
    _is_installed = True
    _patch_device()
    _patch_factories()
    _patch_tensor_methods()
    _leave_uncompiled()
    _patch_random_state()
    _patch_collectives()


def _patch_device() -> None:
    """`torch.cuda.current_device()` names a device: p2p_communication.py, param_and_grad_buffer.py."""
    cpu = torch.device("cpu")
    torch.cuda.current_device = lambda: cpu  # type: ignore[assignment, return-value]
    torch.cuda.synchronize = lambda device=None: None
    torch.cuda.set_device = lambda device: None
    torch.cuda.empty_cache = lambda: None
    torch.cuda.Stream = _Stream  # type: ignore[assignment, misc]
    torch.cuda.current_stream = lambda device=None: _Stream()  # type: ignore[assignment, return-value]
    torch.cuda.stream = lambda stream: nullcontext()  # type: ignore[assignment, return-value]


class _Stream:
    """Work on a CPU is done when its call returns: token_dispatcher.py copies on a stream of its own."""

    def wait_stream(self, stream: object) -> None:
        """Nothing to wait for."""

    def record_event(self) -> _Stream:
        """What has been done, which is everything."""
        return self

    def synchronize(self) -> None:
        """Nothing to wait for."""


def _on_cpu(factory: Callable[_P, _R]) -> Callable[_P, _R]:
    """The factory with every request for a CUDA device answered on the CPU."""

    @functools.wraps(factory)
    def make(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        device = kwargs.get("device")
        if device is not None and torch.device(str(device)).type == "cuda":
            kwargs["device"] = "cpu"
        return factory(*args, **kwargs)

    return make


def _patch_factories() -> None:
    """`device="cuda"` in schedules.py:596, optimizer.py:473, layers.py, clip_grads.py."""
    for name in _FACTORIES:
        setattr(torch, name, _on_cpu(getattr(torch, name)))


def _patch_tensor_methods() -> None:
    """`Tensor.cuda()` in optimizer.py:380; CUDA names of `Tensor.type()` in optimizer.py:671 and others."""
    torch.Tensor.cuda = lambda self, *args, **kwargs: self  # type: ignore[method-assign]
    plain_type = torch.Tensor.type

    def cuda_named_type(self: torch.Tensor, *args: object, **kwargs: object) -> object:
        if args or kwargs:
            return plain_type(self, *args, **kwargs)  # type: ignore[call-overload]
        return str(plain_type(self)).replace("torch.", "torch.cuda.", 1)

    torch.Tensor.type = cuda_named_type  # type: ignore[method-assign, assignment]


def _leave_uncompiled() -> None:
    """What jit.py decorates stays as it is written.

    Compiling takes a C++ compiler and most of a minute at a function's first call, and to load the compiler
    is a quarter of the time that a process takes to start. `jit_fuser` reads `torch.compile` once.
    """
    compiling = torch.compile
    torch.compile = lambda function: function  # type: ignore[assignment]
    try:
        from megatron.core import jit
    finally:
        torch.compile = compiling
    jit.disable_jit_fuser()


def _patch_random_state() -> None:
    """The CUDA generator of tensor_parallel/random.py becomes the CPU's."""

    def get_state(device: object = None, clone: bool = False, graph_safe: bool = False) -> object:
        return torch.random.get_rng_state()

    def set_state(new_state: torch.Tensor, device: object = -1, graph_safe: bool = False) -> None:
        torch.random.set_rng_state(new_state)

    torch.cuda.get_rng_state = get_state  # type: ignore[assignment]
    torch.cuda.set_rng_state = set_state
    torch.cuda.manual_seed = _seed_cpu
    from megatron.core.tensor_parallel import random

    random._get_cuda_rng_state = get_state
    random._set_cuda_rng_state = set_state


def _seed_cpu(seed: int) -> None:
    torch.default_generator.manual_seed(seed)


def _patch_collectives() -> None:
    """Parts of unequal sizes, which NCCL takes and gloo does not: mappings.py, for token_dispatcher.py."""
    gather, reduce_scatter = dist.all_gather, dist.reduce_scatter

    def gather_parts(
        parts: list[torch.Tensor], own: torch.Tensor, group: dist.ProcessGroup | None = None, **options: bool
    ) -> object:
        """Stands in for `all_gather`: each process sends its part to the others."""
        if options or len({part.shape for part in parts}) == 1:
            return gather(parts, own, group=group, **options)
        parts[dist.get_rank(group)].copy_(own)
        for source, part in enumerate(parts):
            dist.broadcast(part, group=group, group_src=source)
        return None

    def reduce_scatter_parts(
        own: torch.Tensor,
        parts: list[torch.Tensor],
        op: object = dist.ReduceOp.SUM,
        group: dist.ProcessGroup | None = None,
        **options: bool,
    ) -> object:
        """Stands in for `reduce_scatter`: each part is reduced where it stays."""
        if options or len({part.shape for part in parts}) == 1:
            return reduce_scatter(own, parts, op, group, **options)
        for target, part in enumerate(parts):
            total = part.clone()
            dist.reduce(total, op=op, group=group, group_dst=target)
            if target == dist.get_rank(group):
                own.copy_(total)
        return None

    dist.all_gather, dist.reduce_scatter = gather_parts, reduce_scatter_parts  # type: ignore[assignment]
