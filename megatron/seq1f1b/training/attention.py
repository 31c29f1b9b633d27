"""Which kernels compute a run's attention, chosen once and before processes join."""

from __future__ import annotations

import torch

from megatron.seq1f1b.model.attention import choose_backend
from megatron.seq1f1b.training.build import dtype_of
from megatron.seq1f1b.training.determinism import set_determinism
from megatron.seq1f1b.training.prepare import Run


def attention_of(run: Run) -> str:
    """The name of the backend that every layer will use.

    Raises:
        BackendError: the one asked for cannot serve the run, and why; names one that can.
    """
    set_determinism(run.config.training.deterministic_mode)
    window = run.layout.window_size
    return choose_backend(
        run.config.model.attention_backend,
        device="cuda" if torch.cuda.is_available() else "cpu",
        dtype=dtype_of(run),
        head_dim=run.layout.kv_channels,
        window=None if window is None else window[0],
        dropout=run.config.model.attention_dropout,
        deterministic=run.config.training.deterministic_mode,
        has_documents=run.config.data.reset_attention_mask,
    ).name
