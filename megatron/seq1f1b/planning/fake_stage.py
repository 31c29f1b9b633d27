"""One rank of a cluster that is not there: a fake process group and fake tensors.

Collectives of torch's fake process group return at once and do nothing; fake tensors have shapes,
types and storages of a size, and no memory. Together they run real model code of any world size in
one process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import TracebackType
from unittest import mock

import torch
import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel
from megatron.core.transformer.moe.moe_utils import MoEAuxLossAutoScaler, get_moe_layer_wise_logging_tracker
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore

from megatron.seq1f1b.errors import ConfigurationError


@contextlib.contextmanager
def fake_rank(
    *,
    stage: int,
    world_size: int,
    tensor_parallel_size: int,
    stages: int,
    virtual_stages: int,
    expert_parallel_size: int = 1,
) -> Iterator[FakeTensorMode]:
    """Be the first rank of a pipeline stage; inside, tensors are fake.

    Raises:
        ConfigurationError: this process has joined a process group already.
    """
    if dist.is_initialized():
        raise ConfigurationError(
            "a dry run needs a process that has joined no process group; start it in one of its own"
        )
    dist.init_process_group(
        "fake", store=FakeStore(), rank=stage * (world_size // stages), world_size=world_size
    )
    try:
        parallel_state.initialize_model_parallel(
            tensor_model_parallel_size=tensor_parallel_size,
            pipeline_model_parallel_size=stages,
            virtual_pipeline_model_parallel_size=virtual_stages if virtual_stages > 1 else None,
            expert_model_parallel_size=expert_parallel_size,
            create_gloo_process_groups=False,
        )
        with (
            FakeTensorMode() as mode,
            _unforked_random_states(),
            _replaced_parameters(),
            _uncopied(),
            _own_auxiliary_losses(),
        ):
            yield mode
    finally:
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()


class _NoFork:
    """Stands for a context that would switch random states, which fake tensors have none of."""

    def __enter__(self) -> None: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


@contextlib.contextmanager
def _unforked_random_states() -> Iterator[None]:
    tracker = tensor_parallel.get_cuda_rng_tracker()
    plain = tracker.fork
    tracker.fork = lambda *names: _NoFork()
    try:
        yield
    finally:
        tracker.fork = plain


@contextlib.contextmanager
def _replaced_parameters() -> Iterator[None]:
    """`Module.to` and its like make new parameters: fake ones cannot take over another's data."""

    def apply(
        module: torch.nn.Module, function: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True
    ) -> torch.nn.Module:
        for owner in module.modules() if recurse else [module]:
            for name, parameter in owner.named_parameters(recurse=False):
                with torch.no_grad():
                    replaced = torch.nn.Parameter(function(parameter), parameter.requires_grad)
                vars(replaced).update(vars(parameter))
                setattr(owner, name, replaced)
            for name, buffer in owner.named_buffers(recurse=False):
                setattr(owner, name, function(buffer))
        return module

    with mock.patch.object(torch.nn.Module, "_apply", apply):
        yield


def _uncopied() -> contextlib.AbstractContextManager[object]:
    """Copying a fake storage, as a recomputed norm does, would keep both alive and copy nothing."""
    return mock.patch.object(torch.UntypedStorage, "copy_", lambda storage, source: storage)


@contextlib.contextmanager
def _own_auxiliary_losses() -> Iterator[None]:
    """Megatron-Core keeps tensors of experts' losses in globals; the next stage's mode cannot use them."""
    with (
        mock.patch.object(MoEAuxLossAutoScaler, "main_loss_backward_scale", None),
        mock.patch.dict(get_moe_layer_wise_logging_tracker(), clear=True),
    ):
        yield


def zeros_like_tokens(batch: int, seq_length: int) -> dict[str, torch.Tensor]:
    """What a data loader delivers for a microbatch, `[batch, sequence]` each."""
    tokens = torch.zeros((batch, seq_length), dtype=torch.long)
    return {
        "tokens": tokens,
        "labels": torch.zeros_like(tokens),
        "loss_mask": torch.ones((batch, seq_length), dtype=torch.float32),
        "position_ids": torch.zeros_like(tokens),
    }
