"""One call of torch's flash CPU kernels for one span, and the merging of several.

Queries are "lanes repeat rows head_dim", keys "lanes 1 keys head_dim": a lane is one group of one
sequence, `repeat` the query heads that share its keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import torch

from megatron.seq1f1b.attention.spans import Block, Shape, Span

_forward_kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_backward_kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default

_INSTRUCTIONS = {
    torch.bfloat16: ("amx_bf16", "avx512_bf16"),
    torch.float16: ("amx_fp16", "avx512_fp16"),
}
"""Processor features, as `torch.cpu.get_capabilities` names them, that make a dtype fast."""


class SpanCall(NamedTuple):
    """How one span is computed: the heads that stay apart, and what is masked.

    Without a mask all queries of a lane are alike, so heads fold into the queries' length and the
    keys are read once. With one, each head keeps its rows, and the keys (few, in a triangle or
    band) are repeated by a view.
    """

    heads: int
    is_folded: bool
    is_causal: bool = False
    mask: torch.Tensor | None = None

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Output "lanes repeat rows head_dim" and log-sum-exp "lanes repeat rows"."""
        output, log_sum_exp = _forward_kernel(
            self._fold(query),
            self._repeat(key),
            self._repeat(value),
            0.0,
            self.is_causal,
            attn_mask=self.mask,
            scale=scale,
        )
        if self.is_folded:
            return output.reshape(query.shape), log_sum_exp.reshape(query.shape[:3])
        return output, log_sum_exp

    def backward(
        self,
        grad_output: torch.Tensor,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        output: torch.Tensor,
        log_sum_exp: torch.Tensor,
        scale: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Gradients "lanes repeat rows head_dim" and, twice, "lanes 1 keys head_dim".

        Output and log-sum-exp are those over all spans of the queries, so that the softmax the
        kernel recovers from them is this span's share of the whole.
        """
        grad_query, grad_key, grad_value = _backward_kernel(
            self._fold(grad_output),
            self._fold(query),
            self._repeat(key),
            self._repeat(value),
            self._fold(output),
            self._fold(log_sum_exp),
            0.0,
            self.is_causal,
            attn_mask=self.mask,
            scale=scale,
        )
        if self.is_folded:
            grad_query = grad_query.reshape(query.shape)
        return grad_query, _sum_heads(grad_key), _sum_heads(grad_value)

    def _fold(self, rows: torch.Tensor) -> torch.Tensor:
        """Fold "lanes repeat rows ..." to "lanes heads repeat/heads*rows ..."."""
        if not self.is_folded:
            return rows
        return rows.reshape(rows.shape[0], self.heads, -1, *rows.shape[3:])

    def _repeat(self, rows: torch.Tensor) -> torch.Tensor:
        return rows if self.heads == 1 else rows.expand(-1, self.heads, -1, -1)


def call_for(span: Span, block: Block, query: torch.Tensor, window: int | None) -> SpanCall:
    """The call that serves a span of the block's queries, "lanes repeat rows head_dim"."""
    repeat = query.shape[1]
    if span.shape is Shape.RECTANGLE:
        heads = 1 if repeat == 1 else _heads_apart(query.shape[0], repeat)
        return SpanCall(heads, is_folded=heads < repeat)
    if span.shape is Shape.TRIANGLE:
        return SpanCall(repeat, is_folded=False, is_causal=True)
    assert window is not None, "only a window makes bands"
    return SpanCall(repeat, is_folded=False, mask=_band_mask(span, block, window, query))


def merge(parts: list[tuple[torch.Tensor, torch.Tensor]], output: torch.Tensor) -> torch.Tensor:
    """Write attention over the union of disjoint spans to `output`; return its log-sum-exp.

    Each part is the output and log-sum-exp over one span. The shares of two spans in a softmax
    over both are a sigmoid of the difference of their log-sum-exps, which cannot overflow.
    """
    (merged, total), *rest = parts
    for part, part_total in rest:
        share = torch.sigmoid(part_total - total).unsqueeze(-1)
        is_last = part is parts[-1][0] and output.dtype is part.dtype
        merged = torch.lerp(merged, part, share, out=output if is_last else None)
        total = torch.logaddexp(total, part_total)
    if merged is not output:
        output.copy_(merged)
    return total


def add_all(parts: list[torch.Tensor], total: torch.Tensor) -> None:
    """Write the sum of the gradients of one block's queries to `total`."""
    if len(parts) == 1:
        total.copy_(parts[0])
        return
    torch.add(parts[0], parts[1], out=total)
    for part in parts[2:]:
        total.add_(part)


@cache
def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """What kernels compute in for tensors of `dtype`, on this machine's processor."""
    if dtype not in _INSTRUCTIONS:
        return dtype
    # A release of torch without this function is taken to run where the instructions are missing.
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    is_fast = any(capabilities.get(feature) for feature in _INSTRUCTIONS[dtype])
    return dtype if is_fast else torch.float32


def _heads_apart(lanes: int, repeat: int) -> int:
    """Fewest heads to keep apart so that every thread has work in the backward kernel.

    It runs lanes x heads in parallel and nothing finer: folding all heads of a single group would
    leave one thread with everything.
    """
    threads = torch.get_num_threads()
    if lanes >= threads:
        return 1
    divisors = (heads for heads in range(1, repeat) if repeat % heads == 0)
    return next((heads for heads in divisors if lanes * heads >= threads), repeat)


def _band_mask(span: Span, block: Block, window: int, query: torch.Tensor) -> torch.Tensor:
    """What to add to the scores of a band, "rows keys", in the queries' dtype.

    The kernel misreads a mask of another dtype (float32 with float64 queries) without an error.
    """
    rows = torch.arange(block.start, block.stop)[:, None]
    keys = torch.arange(span.start, span.stop)[None, :]
    hidden = (keys > rows) | (keys < rows - window)
    return torch.zeros(hidden.shape, dtype=query.dtype).masked_fill_(hidden, float("-inf"))


def _sum_heads(gradient: torch.Tensor) -> torch.Tensor:
    """Sum "lanes heads keys head_dim" to "lanes 1 keys head_dim", in float32 or wider."""
    if gradient.shape[1] == 1:
        return gradient
    return gradient.sum(1, keepdim=True, dtype=torch.promote_types(gradient.dtype, torch.float32))
