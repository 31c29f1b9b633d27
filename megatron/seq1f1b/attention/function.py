"""Attention of one chunk to its prefix and itself, as one differentiable function.

Forward writes the chunk's keys and values into the cache and attends to rows [0, stop). Backward
reads the same rows again, hands gradients of the prefix to the accumulator, and takes the chunk's
own out of it; it therefore runs from the last chunk to the first. Saved for backward are queries,
output and log-sum-exp: the cache itself holds keys and values, through the object and not through
autograd, whose version check would object to the next chunk's rows.
"""

from __future__ import annotations

from typing import Any

import torch

from megatron.seq1f1b.attention.backends.base import AttentionBackend
from megatron.seq1f1b.attention.gradients import KVGradients
from megatron.seq1f1b.attention.spans import DocumentStarts, Visibility
from megatron.seq1f1b.attention.state import KVCache
from megatron.seq1f1b.chunk import Chunk
from megatron.seq1f1b.errors import DataError


def chunked_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    cache: KVCache | None,
    chunk: Chunk,
    softmax_scale: float,
    backend: AttentionBackend,
    window: int | None = None,
    document_starts: DocumentStarts | None = None,
) -> torch.Tensor:
    """Causal attention of a chunk's queries to the sequence's keys up to themselves.

    Args:
        query: "chunk batch heads head_dim".
        key: "chunk batch groups head_dim", the chunk's own; groups divides heads.
        value: as key.
        cache: holds the prefix and receives the chunk; None only for a chunk that is the whole
            sequence, whose keys and values autograd keeps like any other activation.
        chunk: which rows of the sequence these are.
        softmax_scale: factor of the scores before the softmax.
        backend: whose kernels compute it.
        window: keys before itself that a query sees; None for all.
        document_starts: where each sequence's documents start; None for one document each.

    Returns:
        "chunk batch heads head_dim", contiguous.

    Raises:
        DataError: `document_starts` does not describe these sequences.
        StepError: the prefix is not in the cache, or a backward runs out of order.
    """
    if document_starts is not None:
        _check_documents(document_starts, num_sequences=query.shape[1])
    visibility = Visibility(chunk=chunk, window=window, document_starts=document_starts)
    if chunk.count == 1:
        return _WholeAttention.apply(query, key, value, visibility, softmax_scale, backend)
    assert cache is not None, "a chunk with others beside it needs a cache"
    return _ChunkAttention.apply(query, key, value, cache, visibility, softmax_scale, backend)


class _ChunkAttention(torch.autograd.Function):
    """One of several chunks: keys and values are the cache's."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        cache: KVCache,
        visibility: Visibility,
        softmax_scale: float,
        backend: AttentionBackend,
    ) -> torch.Tensor:
        """Write the chunk to the cache and attend; arguments and result are `chunked_attention`'s."""
        query = _compact(query)
        cache.write(visibility.chunk, key, value)
        keys, values = cache.read(visibility.chunk)
        output, log_sum_exp = backend.forward(
            query, keys, values, visibility=visibility, softmax_scale=softmax_scale
        )
        ctx.save_for_backward(query, output, log_sum_exp)
        ctx.call = (cache, visibility, softmax_scale, backend)
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of the chunk's own query, key and value, with what later chunks left for them.

        The first chunk's, which runs last, gives the cache back to its pool.
        """
        query, output, log_sum_exp = ctx.saved_tensors
        cache, visibility, softmax_scale, backend = ctx.call
        chunk = visibility.chunk
        keys, values = cache.read(chunk)
        gradients = KVGradients(chunk=chunk, key=keys, accumulators=cache.accumulators(chunk))
        grad_query = backend.backward(
            grad_output.contiguous(),
            query,
            keys,
            values,
            output,
            log_sum_exp,
            visibility=visibility,
            softmax_scale=softmax_scale,
            gradients=gradients,
        )
        grad_key, grad_value = gradients.finish()
        if chunk.is_first:
            cache.release()
        return grad_query, grad_key, grad_value, None, None, None, None


class _WholeAttention(torch.autograd.Function):
    """The whole sequence in one chunk: no cache, no accumulator, no second copy of anything."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        visibility: Visibility,
        softmax_scale: float,
        backend: AttentionBackend,
    ) -> torch.Tensor:
        """Attend; arguments and result are `chunked_attention`'s."""
        query, key, value = _compact(query), _compact(key), _compact(value)
        output, log_sum_exp = backend.forward(
            query,
            key.permute(1, 2, 0, 3),
            value.permute(1, 2, 0, 3),
            visibility=visibility,
            softmax_scale=softmax_scale,
        )
        ctx.save_for_backward(query, key, value, output, log_sum_exp)
        ctx.call = (visibility, softmax_scale, backend)
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of query, key and value."""
        query, key, value, output, log_sum_exp = ctx.saved_tensors
        visibility, softmax_scale, backend = ctx.call
        keys = key.permute(1, 2, 0, 3)
        gradients = KVGradients(chunk=visibility.chunk, key=keys, accumulators=None)
        grad_query = backend.backward(
            grad_output.contiguous(),
            query,
            keys,
            value.permute(1, 2, 0, 3),
            output,
            log_sum_exp,
            visibility=visibility,
            softmax_scale=softmax_scale,
            gradients=gradients,
        )
        return grad_query, *gradients.finish(), None, None, None


def _check_documents(document_starts: DocumentStarts, *, num_sequences: int) -> None:
    if len(document_starts) != num_sequences:
        raise DataError(
            f"document_starts describes {len(document_starts)} sequences, but the microbatch has "
            f"{num_sequences}; give one tuple of positions for each"
        )
    for row, starts in enumerate(document_starts):
        if not starts or starts[0] != 0:
            raise DataError(
                f"the first document of sequence {row} starts at {starts[:1]}; it must start at 0"
            )


def _compact(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, contiguous and alone in its storage.

    Without rotary embedding queries are a view of the fused projection; saving the view would
    keep the projection's keys and values alive a second time.
    """
    if tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes:
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)
