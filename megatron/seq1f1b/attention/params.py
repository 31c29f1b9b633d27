"""What tells each layer's attention which chunk it computes, and for which sequence.

Megatron-Core passes `packed_seq_params` untouched from the model's forward to every core attention
and to the rotary table, and keeps it with a recomputed layer. It asks only for
`qkv_format == "thd"`; anything else is an ordinary sequence-first batch to it. A subclass
therefore carries the chunk, with no global or thread-local state beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

from megatron.core.packed_seq_params import PackedSeqParams

from megatron.seq1f1b.attention.spans import DocumentStarts
from megatron.seq1f1b.attention.state import SequenceState
from megatron.seq1f1b.chunk import Chunk


@dataclass(kw_only=True)
class ChunkSeqParams(PackedSeqParams):
    """One chunk of one sequence batch.

    Attributes:
        chunk: which tokens.
        state: keys, values and their gradients of this microbatch on this virtual stage.
        document_starts: for each sequence of the microbatch, the positions where its packed
            documents start (the first is 0), of the *whole* sequence; None for one document each.
    """

    qkv_format: str = "sbhd"
    chunk: Chunk
    state: SequenceState
    document_starts: DocumentStarts | None = None
