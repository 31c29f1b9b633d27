"""Which backends there are, and the choice of one before the first step.

A run states what it needs once; a backend that cannot serve it says why, and the error names one
that can. A kernel that nothing here has run is refused by name: attention that is a little wrong
trains, and nobody notices.
"""

from __future__ import annotations

import torch

from megatron.seq1f1b.attention.backends.base import AttentionBackend, AttentionRequest
from megatron.seq1f1b.attention.backends.cpu import CpuBackend
from megatron.seq1f1b.attention.backends.reference import ReferenceBackend
from megatron.seq1f1b.attention.backends.torch_flash import TorchFlashBackend
from megatron.seq1f1b.errors import BackendError

AUTO = "auto"
"""The fast backend that serves the request; never `reference`, which has to be asked for."""

_BACKENDS: dict[str, AttentionBackend] = {
    backend.name: backend for backend in (TorchFlashBackend(), CpuBackend(), ReferenceBackend())
}
_UNTESTED = {
    "flash-attn": "its gradients by query and key are private functions that differ between releases, "
    "and torch-flash runs the same kernels",
    "flash-attn-3": "nothing here has run it",
    "transformer-engine": "nothing here has run its fused attention with a prefix",
}
"""Names users may know, and why they are refused."""

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
    """The backend of that name, or for "auto" the fast one that serves the request.

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
    if name not in BACKEND_NAMES and name not in _UNTESTED:
        raise BackendError(f"there is no attention backend {name!r}; there are {', '.join(BACKEND_NAMES)}")
    refusals: dict[str, str | None] = {**_UNTESTED}
    refusals |= {each: backend.refusal(request) for each, backend in _BACKENDS.items()}
    able = [each for each, refusal in refusals.items() if refusal is None]
    chosen = able[0] if name == AUTO and able and able[0] != ReferenceBackend.name else name
    if chosen in able:
        return _BACKENDS[chosen]
    raise BackendError(_explain(name, refusals, able))


def _explain(name: str, refusals: dict[str, str | None], able: list[str]) -> str:
    """Why the choice failed and what would succeed."""
    advice = f"use {able[0]!r}" if able else "no backend can: change the option named"
    if name != AUTO:
        return f"attention backend {name!r} cannot serve this run: {refusals[name]}; {advice}"
    reasons = "; ".join(f"{each}: {why}" for each, why in refusals.items() if why and each not in _UNTESTED)
    return f"no fast attention backend can serve this run ({reasons}); {advice}"
