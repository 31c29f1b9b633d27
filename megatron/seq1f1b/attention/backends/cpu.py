"""torch's flash kernels for CPUs: one call per span, merged by log-sum-exp.

The kernels know full, causal and masked attention and align causal masks to the first key, which
is why a chunk's prefix and its diagonal are separate calls. Each backward is given the *merged*
output and log-sum-exp, from which it recovers its own share of the softmax.

Half precisions are computed in float32 on processors without instructions for them: the kernels'
fallback is several times slower there, and less exact. Tensors at rest stay in half precision.

Everything is seen as "lanes repeat rows head_dim", a lane being one group of one sequence, which
sequence-first activations and the cache alike reach as views.
"""

from __future__ import annotations

import torch

from megatron.seq1f1b.attention.backends.base import AttentionRequest
from megatron.seq1f1b.attention.backends.cpu_kernels import add_all, call_for, compute_dtype, merge
from megatron.seq1f1b.attention.gradients import ALL_ROWS, KVGradients
from megatron.seq1f1b.attention.spans import Block, Span, Visibility, blocks_of
from megatron.seq1f1b.chunk import Chunk

_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


class CpuBackend:
    """Serves floating-point CPU tensors, with windows and packed documents."""

    name = "cpu"

    def refusal(self, request: AttentionRequest) -> str | None:
        """Other devices, other dtypes and dropout are refused."""
        if request.device_type != "cpu":
            return f"its kernels run on CPU tensors only, not on {request.device_type}"
        if request.dtype not in _DTYPES:
            return f"its kernels do not know {request.dtype}"
        if request.dropout > 0:
            return "its kernels have no attention dropout"
        return None

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        visibility: Visibility,
        softmax_scale: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `AttentionBackend.forward`; the log-sum-exp is "lanes repeat chunk"."""
        chunk, groups, compute = visibility.chunk, key.shape[1], compute_dtype(query.dtype)
        output = torch.empty_like(query, memory_format=torch.contiguous_format)
        queries, outputs = _lanes(query, groups), _lanes(output, groups)
        keys, values = _key_lanes(key), _key_lanes(value)
        blocks, totals = blocks_of(visibility), []
        for block in blocks:
            block_query = _cast(_take(queries, block, chunk, groups), compute)
            parts = []
            for span in block.spans:
                span_keys = _cast(_take_keys(keys, span, block, groups), compute)
                span_values = _cast(_take_keys(values, span, block, groups), compute)
                call = call_for(span, block, block_query, visibility.window)
                parts.append(call.forward(block_query, span_keys, span_values, softmax_scale))
            totals.append(merge(parts, _take(outputs, block, chunk, groups)))
        if len(blocks) == 1:
            return output, totals[0]
        log_sum_exp = totals[0].new_empty(queries.shape[:3])
        for block, total in zip(blocks, totals, strict=True):
            _take(log_sum_exp, block, chunk, groups).copy_(total)
        return output, log_sum_exp

    def backward(
        self,
        grad_output: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        output: torch.Tensor,
        log_sum_exp: torch.Tensor,
        *,
        visibility: Visibility,
        softmax_scale: float,
        gradients: KVGradients,
    ) -> torch.Tensor:
        """See `AttentionBackend.backward`."""
        chunk, (batch, groups), compute = visibility.chunk, key.shape[:2], compute_dtype(query.dtype)
        grad_query = torch.empty_like(query, memory_format=torch.contiguous_format)
        rows = [_lanes(heads, groups) for heads in (grad_output, query, output)]
        grad_queries = _lanes(grad_query, groups)
        keys, values = _key_lanes(key), _key_lanes(value)
        for block in blocks_of(visibility):
            grad, block_query, block_output = (
                _cast(_take(lanes, block, chunk, groups), compute) for lanes in rows
            )
            total = _take(log_sum_exp, block, chunk, groups)
            at = ALL_ROWS if block.row is None else slice(block.row, block.row + 1)
            shape = (batch if block.row is None else 1, groups, -1, key.shape[3])
            parts = []
            for span in block.spans:
                span_keys = _cast(_take_keys(keys, span, block, groups), compute)
                span_values = _cast(_take_keys(values, span, block, groups), compute)
                call = call_for(span, block, block_query, visibility.window)
                grad_part, grad_keys, grad_values = call.backward(
                    grad, block_query, span_keys, span_values, block_output, total, softmax_scale
                )
                parts.append(grad_part)
                gradients.add(span.start, grad_keys.view(shape), grad_values.view(shape), batch=at)
            add_all(parts, _take(grad_queries, block, chunk, groups))
        return grad_query


def _lanes(heads: torch.Tensor, groups: int) -> torch.Tensor:
    """View "chunk batch heads head_dim" as "lanes repeat chunk head_dim"."""
    chunk, batch, num_heads, head_dim = heads.shape
    return heads.view(chunk, batch * groups, num_heads // groups, head_dim).permute(1, 2, 0, 3)


def _key_lanes(key: torch.Tensor) -> torch.Tensor:
    """View "batch groups rows head_dim" as "lanes 1 rows head_dim"."""
    batch, groups, rows, head_dim = key.shape
    return key.view(batch * groups, 1, rows, head_dim)


def _take(lanes: torch.Tensor, block: Block, chunk: Chunk, groups: int) -> torch.Tensor:
    """A block's part of "lanes repeat chunk ...", a view."""
    length = block.stop - block.start
    if block.row is not None:
        lanes = lanes.narrow(0, block.row * groups, groups)
    elif length == chunk.length:
        return lanes
    return lanes.narrow(2, block.start - chunk.start, length)


def _take_keys(lanes: torch.Tensor, span: Span, block: Block, groups: int) -> torch.Tensor:
    """A span's part of "lanes 1 rows head_dim", a view."""
    if block.row is not None:
        lanes = lanes.narrow(0, block.row * groups, groups)
    return lanes.narrow(2, span.start, span.stop - span.start)


def _cast(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The tensor in `dtype`, without a call where it is in it already."""
    return tensor if tensor.dtype is dtype else tensor.to(dtype)
