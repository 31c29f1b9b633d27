"""What the fork server imports once, so that no test process has to: torch, Megatron-Core, our package.

The CPU support patches must be in place before anything of `megatron.core` is imported. A module of
ours that cannot be imported is left to the test that does, which shows why.
"""

from __future__ import annotations

import contextlib

import torch._dynamo  # which the first optimizer of a process imports
import torch.distributed  # noqa: F401

with contextlib.suppress(ImportError):
    from megatron.seq1f1b.upstream import install_cpu_support

    install_cpu_support()

import megatron.core.models.gpt.gpt_layer_specs
import megatron.core.optimizer
import megatron.core.pipeline_parallel.schedules

with contextlib.suppress(Exception):
    import megatron.seq1f1b.api
    import megatron.seq1f1b.training.pretrain  # noqa: F401
