"""How a chunk attends to its prefix, exactly: cache, kernels, and the seam to Megatron-Core.

Read `function.py` first, then `state.py`; `spans.py` says what a chunk sees, `backends/` compute
it, and `core.py` is what a layer specification names. Nothing here knows pipelines or plans.
"""

from megatron.seq1f1b.attention.backends import (
    AUTO,
    BACKEND_NAMES,
    AttentionBackend,
    AttentionRequest,
    choose_backend,
)
from megatron.seq1f1b.attention.core import ChunkedCoreAttention
from megatron.seq1f1b.attention.function import chunked_attention
from megatron.seq1f1b.attention.params import ChunkSeqParams
from megatron.seq1f1b.attention.pool import CachePool
from megatron.seq1f1b.attention.spans import DocumentStarts
from megatron.seq1f1b.attention.state import KVCache, SequenceState

__all__ = [
    "AUTO",
    "BACKEND_NAMES",
    "AttentionBackend",
    "AttentionRequest",
    "CachePool",
    "ChunkSeqParams",
    "ChunkedCoreAttention",
    "DocumentStarts",
    "KVCache",
    "SequenceState",
    "choose_backend",
    "chunked_attention",
]
