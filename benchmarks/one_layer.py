"""One layer's attention of one sequence in even chunks: what the attention benchmarks run."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from megatron.seq1f1b.attention import (
    CachePool,
    DocumentStarts,
    SequenceState,
    choose_backend,
    chunked_attention,
)
from megatron.seq1f1b.chunk import chunks_from

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class Case:
    """Sizes, and which kernels."""

    backend: str = "auto"
    dtype: str = "float32"
    seq_length: int
    chunks: int = 1
    heads: int
    groups: int
    head_dim: int
    window: int | None = None
    documents: int = 1

    @property
    def document_starts(self) -> DocumentStarts | None:
        """Equal documents, or None for one."""
        length = self.seq_length // self.documents
        return None if self.documents == 1 else (tuple(range(0, self.seq_length, length)),)


def inputs_of(case: Case, device: str = "cpu") -> Tensors:
    """Queries, keys, values and the gradient of the output, "sequence 1 heads head_dim"."""
    return tuple(
        torch.randn(case.seq_length, 1, heads, case.head_dim, device=device).to(DTYPES[case.dtype])
        for heads in (case.heads, case.groups, case.groups, case.heads)
    )


def run_attention(case: Case, inputs: Tensors, pool: CachePool) -> None:
    """Forward and backward of the sequence, chunk by chunk."""
    query, length, count = inputs[0], case.seq_length, case.chunks
    chunks = chunks_from([length * index // count for index in range(count + 1)])
    backend = choose_backend(
        case.backend, device=query.device, dtype=query.dtype, head_dim=case.head_dim, window=case.window
    )
    state = SequenceState(pool=pool, seq_length=length, microbatch=0, virtual_stage=0, num_chunks=count)
    outputs = []
    for chunk in chunks:
        piece = [rows[chunk.start : chunk.stop].detach().requires_grad_() for rows in inputs[:3]]
        output = chunked_attention(
            *piece,
            cache=state.cache(1),
            chunk=chunk,
            softmax_scale=case.head_dim**-0.5,
            window=case.window,
            document_starts=case.document_starts,
            backend=backend,
        )
        outputs.append(output)
    for chunk in reversed(chunks):
        outputs.pop().backward(inputs[3][chunk.start : chunk.stop])
    state.close()
