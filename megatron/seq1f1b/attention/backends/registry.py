"""Which backends there are, and the choice of one before the first step.

A run states what it needs once; a backend that cannot serve it says why, and the error names one
that can. The `auto` choice is the first of the device's preference list that serves the request.
"""

from __future__ import annotations

import torch

from megatron.seq1f1b.attention.backends.base import AttentionBackend, AttentionRequest
from megatron.seq1f1b.attention.backends.cpu import CpuBackend
from megatron.seq1f1b.attention.backends.reference import ReferenceBackend
from megatron.seq1f1b.errors import BackendError

AUTO = "auto"

_BACKENDS: dict[str, AttentionBackend] = {
    backend.name: backend for backend in (CpuBackend(), ReferenceBackend())
}
"""In order of preference; the reference backend comes last because it serves nearly everything."""

BACKEND_NAMES: tuple[str, ...] = (AUTO, *_BACKENDS)
"""What `--attention-backend` may say."""


def choose_backend(
    name: str,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    head_dim: int,
    window: int | None = None,
    dropout: float = 0.0,
    deterministic: bool = False,
    has_documents: bool = False,
) -> AttentionBackend:
    """The backend of that name, or for "auto" the best that serves the request.

    Args:
        name: one of `BACKEND_NAMES`.
        device: where the tensors are.
        dtype: of queries, keys and values.
        head_dim: channels of one head.
        window: keys before itself that a query sees; None for all.
        dropout: probability with which attention weights are dropped while training.
        deterministic: whether equal inputs must give equal bits.
        has_documents: whether sequences are packed documents.

    Raises:
        BackendError: there is no such backend, or it cannot serve this; names one that can.
    """
    request = AttentionRequest(
        device_type=torch.device(device).type,
        dtype=dtype,
        head_dim=head_dim,
        window=window,
        dropout=dropout,
        is_deterministic=deterministic,
        has_documents=has_documents,
    )
    refusals = {each.name: each.refusal(request) for each in _BACKENDS.values()}
    able = [each for each, refusal in refusals.items() if refusal is None]
    if name == AUTO and able:
        return _BACKENDS[able[0]]
    if name in able:
        return _BACKENDS[name]
    raise BackendError(_explain(name, refusals, able))


def _explain(name: str, refusals: dict[str, str | None], able: list[str]) -> str:
    advice = f"use {able[0]}" if able else "no backend can; change the option named"
    if name in refusals:
        return f"attention backend {name!r} cannot serve this run: {refusals[name]}; {advice}"
    if name != AUTO:
        return f"there is no attention backend {name!r}; there are {', '.join(BACKEND_NAMES)}"
    reasons = "; ".join(f"{each}: {refusal}" for each, refusal in refusals.items())
    return f"no attention backend can serve this run ({reasons})"
