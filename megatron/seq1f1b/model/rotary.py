"""Megatron-Core's rotary table, cut to a chunk's absolute positions."""

from __future__ import annotations

from functools import lru_cache

import torch
from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding

from megatron.seq1f1b.attention import ChunkSeqParams


class ChunkRotaryEmbedding(RotaryEmbedding):
    """Rotary angles of tokens [start, stop), `[stop - start, 1, 1, rotary dim]`.

    `GPTModel` asks for a length and then for the table of that length. A chunk answers with its
    span instead, and the table of the span follows. Without a chunk nothing changes.
    """

    def get_rotary_seq_len(
        self,
        inference_context: object,
        transformer: object,
        transformer_input: torch.Tensor,
        transformer_config: object,
        packed_seq_params: object = None,
        **keywords: object,
    ) -> int | tuple[int, int]:
        """The chunk's (start, stop), or the length of the whole sequence."""
        if isinstance(packed_seq_params, ChunkSeqParams):
            return packed_seq_params.chunk.start, packed_seq_params.chunk.stop
        length: int = super().get_rotary_seq_len(
            inference_context,
            transformer,
            transformer_input,
            transformer_config,
            packed_seq_params,
            **keywords,
        )
        return length

    @lru_cache(maxsize=64)  # noqa: B019 - one table per model part, for as long as the model lives
    def forward(self, span: int | tuple[int, int], **keywords: object) -> torch.Tensor:
        """Angles of a span of positions, or of the first `span` positions."""
        if isinstance(span, int):
            return super().forward(span, **keywords)
        start, stop = span
        return super().forward(stop - start, offset=start, **keywords)
