"""Attention backends: the kernels, each behind the same two functions and a refusal."""

from megatron.seq1f1b.attention.backends.base import AttentionBackend, AttentionRequest
from megatron.seq1f1b.attention.backends.registry import AUTO, BACKEND_NAMES, choose_backend

__all__ = ["AUTO", "BACKEND_NAMES", "AttentionBackend", "AttentionRequest", "choose_backend"]
