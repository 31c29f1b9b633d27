"""The attention room's choice of kernels, for rooms that build runs."""

from megatron.seq1f1b.attention import choose_backend

__all__ = ["choose_backend"]
