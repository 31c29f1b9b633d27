"""What the fork server imports once, so that no test process has to: torch and Megatron-Core.

The CPU support patches must be in place before anything of `megatron.core` is imported.
"""

from __future__ import annotations

import contextlib

import torch.distributed  # noqa: F401

with contextlib.suppress(ImportError):
    from megatron.seq1f1b.upstream import install_cpu_support

    install_cpu_support()

import megatron.core.models.gpt
import megatron.core.optimizer
import megatron.core.pipeline_parallel.schedules  # noqa: F401
