"""What is patched where there is no CUDA device."""

from __future__ import annotations

import torch

from tests.harness import run_distributed


def is_compiled() -> tuple[bool, bool]:
    """A fused function of Megatron-Core, and one of a user's own."""
    from megatron.core.fusions.fused_bias_geglu import geglu

    own = torch.compile(torch.nn.functional.gelu)
    return hasattr(geglu, "_torchdynamo_orig_callable"), hasattr(own, "_torchdynamo_orig_callable")


def test_only_what_a_user_compiles_is_compiled() -> None:
    assert run_distributed(is_compiled, 1) == [(False, True)]
