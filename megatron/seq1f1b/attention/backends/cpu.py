"""torch's flash kernels for CPUs: one call per span, merged by log-sum-exp.

The kernels know full, causal and masked attention and align causal masks to the first key, which
is why a chunk's prefix and its diagonal are separate calls. Each backward is given the *merged*
output and log-sum-exp, from which it recovers its own share of the softmax.

Grouped queries never expand the keys of a prefix: without a mask all queries of a group are alike,
so its heads fold into the query's length. Only a triangle or band needs the heads apart, and sees
its few keys through a view that repeats them without a copy.

Everything is seen as "batch*groups repeat rows head_dim" ("lanes"), which all tensors reach as
views: sequence-first activations and the cache alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from megatron.seq1f1b.attention.backends.base import AttentionRequest
from megatron.seq1f1b.attention.gradients import KVGradients
from megatron.seq1f1b.attention.spans import Block, Shape, Span, Visibility, blocks_of

_forward_kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_backward_kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default

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
        """See `AttentionBackend.forward`; the log-sum-exp is "batch*groups repeat chunk"."""
        groups = key.shape[1]
        output = torch.empty_like(query, memory_format=torch.contiguous_format)
        queries, outputs = _lanes(query, groups), _lanes(output, groups)
        log_sum_exp = _empty_log_sum_exp(queries)
        for block in blocks_of(visibility):
            at = _rows_of(block, visibility, groups)
            block_query, lanes = queries[at], at[0]
            parts = []
            for span in block.spans:
                keys, values = _keys_of(span, key, lanes), _keys_of(span, value, lanes)
                call = _Call.of(block, span, block_query, visibility.window, softmax_scale)
                parts.append(call.forward(block_query, keys, values))
            _merge(parts, outputs[at], log_sum_exp[at])
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
        groups = key.shape[1]
        grad_query = torch.empty_like(query, memory_format=torch.contiguous_format)
        lanes_of = [_lanes(heads, groups) for heads in (grad_output, query, output)]
        grad_queries = _lanes(grad_query, groups)
        for block in blocks_of(visibility):
            at = _rows_of(block, visibility, groups)
            block_grad, block_query, block_output = (lanes[at] for lanes in lanes_of)
            parts = []
            for span in block.spans:
                keys, values = _keys_of(span, key, at[0]), _keys_of(span, value, at[0])
                call = _Call.of(block, span, block_query, visibility.window, softmax_scale)
                grad, grad_key, grad_value = call.backward(
                    block_grad, block_query, keys, values, block_output, log_sum_exp[at]
                )
                parts.append(grad)
                batch = slice(None) if block.row is None else slice(block.row, block.row + 1)
                gradients.add(
                    span.start,
                    grad_key.unflatten(0, (-1, groups)),
                    grad_value.unflatten(0, (-1, groups)),
                    batch=batch,
                )
            _sum(parts, grad_queries[at])
        return grad_query


@dataclass(frozen=True, slots=True)
class _Call:
    """One kernel call: how many heads stay apart, and what is masked."""

    heads: int
    is_causal: bool
    mask: torch.Tensor | None
    scale: float

    @classmethod
    def of(cls, block: Block, span: Span, query: torch.Tensor, window: int | None, scale: float) -> _Call:
        """The call that serves a span of the block's queries, "lanes repeat rows head_dim"."""
        lanes, repeat = query.shape[:2]
        if span.shape is Shape.RECTANGLE:
            return cls(_heads_apart(lanes, repeat), False, None, scale)
        if span.shape is Shape.TRIANGLE:
            return cls(repeat, True, None, scale)
        assert window is not None, "only a window makes bands"
        return cls(repeat, False, _band_mask(block, span, window, query), scale)

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Output "lanes repeat rows head_dim" and log-sum-exp "lanes repeat rows"."""
        output, log_sum_exp = _forward_kernel(
            self._fold(query),
            key.expand(-1, self.heads, -1, -1),
            value.expand(-1, self.heads, -1, -1),
            0.0,
            self.is_causal,
            attn_mask=self.mask,
            scale=self.scale,
        )
        return output.reshape(query.shape), log_sum_exp.reshape(query.shape[:3])

    def backward(
        self,
        grad_output: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        output: torch.Tensor,
        log_sum_exp: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Gradients "lanes repeat rows head_dim" and, twice, "lanes keys head_dim"."""
        grad_query, grad_key, grad_value = _backward_kernel(
            self._fold(grad_output),
            self._fold(query),
            key.expand(-1, self.heads, -1, -1),
            value.expand(-1, self.heads, -1, -1),
            self._fold(output),
            self._fold(log_sum_exp),
            0.0,
            self.is_causal,
            attn_mask=self.mask,
            scale=self.scale,
        )
        return grad_query.reshape(query.shape), _sum_heads(grad_key), _sum_heads(grad_value)

    def _fold(self, rows: torch.Tensor) -> torch.Tensor:
        """Fold "lanes repeat rows ..." to "lanes heads repeat/heads*rows ..."; a view if all stay."""
        lanes, repeat = rows.shape[:2]
        if self.heads == repeat:
            return rows
        return rows.reshape(lanes, self.heads, -1, *rows.shape[3:])


def _heads_apart(lanes: int, repeat: int) -> int:
    """Heads of a group not to fold, so that every thread has a lane in the backward kernel.

    It runs lanes x heads in parallel and nothing finer; folding all heads of a single group would
    leave one thread with all the work.
    """
    threads = torch.get_num_threads()
    return next(
        heads
        for heads in range(1, repeat + 1)
        if repeat % heads == 0 and (heads == repeat or lanes * heads >= threads)
    )


def _lanes(heads: torch.Tensor, groups: int) -> torch.Tensor:
    """View "chunk batch heads head_dim" as "batch*groups repeat chunk head_dim"."""
    chunk, batch, num_heads, head_dim = heads.shape
    return heads.view(chunk, batch * groups, num_heads // groups, head_dim).permute(1, 2, 0, 3)


def _rows_of(block: Block, visibility: Visibility, groups: int) -> tuple[slice, slice, slice]:
    """Where a block's queries lie in "batch*groups repeat chunk ..."."""
    origin = visibility.chunk.start
    every = slice(None)
    lanes = every if block.row is None else slice(block.row * groups, (block.row + 1) * groups)
    return lanes, every, slice(block.start - origin, block.stop - origin)


def _keys_of(span: Span, key: torch.Tensor, lanes: slice) -> torch.Tensor:
    """A span's keys, "batch groups stop head_dim" -> "batch*groups 1 keys head_dim", a view."""
    batch, groups, stop, head_dim = key.shape
    every = key.view(batch * groups, 1, stop, head_dim)
    return every[lanes, :, span.start : span.stop]


def _band_mask(block: Block, span: Span, window: int, query: torch.Tensor) -> torch.Tensor:
    """What to add to the scores of a band, "rows keys", in the queries' dtype.

    The kernel misreads a mask of another dtype (float32 with float64 queries) without an error.
    """
    rows = torch.arange(block.start, block.stop, device=query.device)[:, None]
    keys = torch.arange(span.start, span.stop, device=query.device)[None, :]
    hidden = (keys > rows) | (keys < rows - window)
    mask = torch.zeros(hidden.shape, dtype=query.dtype, device=query.device)
    return mask.masked_fill_(hidden, float("-inf"))


def _empty_log_sum_exp(queries: torch.Tensor) -> torch.Tensor:
    dtype = torch.promote_types(queries.dtype, torch.float32)
    return torch.empty(queries.shape[:3], dtype=dtype, device=queries.device)


def _merge(
    parts: list[tuple[torch.Tensor, torch.Tensor]],
    output: torch.Tensor,
    log_sum_exp: torch.Tensor,
) -> None:
    """Attention over the union of disjoint keys, written to `output` and `log_sum_exp`.

    Each part is the output and log-sum-exp over some of the keys. With equal queries the shares of
    two parts are the sigmoid of the difference of their log-sum-exps, which cannot overflow.
    """
    (merged, total), *rest = parts
    wide = total.dtype
    for part, part_total in rest:
        share = torch.sigmoid(part_total - total).unsqueeze(-1)
        merged = torch.lerp(merged.to(wide), part.to(wide), share)
        total = torch.logaddexp(total, part_total)
    output.copy_(merged)
    log_sum_exp.copy_(total)


def _sum(parts: list[torch.Tensor], total: torch.Tensor) -> None:
    """The sum of gradients of the same queries, written to `total`."""
    if len(parts) == 1:
        total.copy_(parts[0])
        return
    torch.add(parts[0], parts[1], out=total)
    for part in parts[2:]:
        total.add_(part)


def _sum_heads(gradient: torch.Tensor) -> torch.Tensor:
    """Sum "lanes heads keys head_dim" to "lanes keys head_dim", in float32 or wider."""
    if gradient.shape[1] == 1:
        return gradient.squeeze(1)
    return gradient.sum(1, dtype=torch.promote_types(gradient.dtype, torch.float32))
