r"""torch's flash kernels for CUDA: one call per document, whatever the chunk.

Given fewer queries than keys, these kernels align a causal mask (and a window) to the *last* key
(`torch/nn/attention/bias.py` relies on it for its lower-right bias; SDPA's `is_causal` flag, by
contrast, aligns to the first). A chunk's queries are the last of the keys it sees, so prefix and
diagonal are one call, and so is each document that has queries in the chunk:

    keys  first_key ......... start ....... stop
          [        prefix    ][  queries   \ ]

Keys and values have their own, fewer, heads; the kernels know grouped queries.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from megatron.seq1f1b.attention.backends.base import AttentionRequest
from megatron.seq1f1b.attention.gradients import ALL_ROWS, KVGradients
from megatron.seq1f1b.attention.spans import Visibility, segments_of

_forward_kernel = torch.ops.aten._flash_attention_forward.default
_backward_kernel = torch.ops.aten._flash_attention_backward.default

_DTYPES = (torch.bfloat16, torch.float16)
_MAX_HEAD_DIM = 256
_MAX_HEAD_DIM_SMALL_CHIPS = 192
_SMALL_CHIPS = ((8, 6), (8, 9), (12, 0))
"""Compute capabilities whose shared memory is too small for the backward of larger heads."""


class TorchFlashBackend:
    """Serves half-precision CUDA tensors, with windows and packed documents."""

    name = "torch-flash"

    def refusal(self, request: AttentionRequest) -> str | None:
        """Other devices, dtypes, head dims, dropout, and determinism that torch was not told of."""
        reasons = {
            f"its kernels run on CUDA tensors only, not on {request.device_type}": (
                request.device_type != "cuda"
            ),
            f"its kernels compute bfloat16 and float16, not {request.dtype}": request.dtype not in _DTYPES,
            f"head dim {request.head_dim} is not a multiple of 8 up to {_MAX_HEAD_DIM}": (
                request.head_dim % 8 != 0 or request.head_dim > _MAX_HEAD_DIM
            ),
            "attention dropout through it is not tested; use 0": request.dropout > 0,
            "its backward adds in any order unless torch.use_deterministic_algorithms(True) is set": (
                request.is_deterministic and not torch.are_deterministic_algorithms_enabled()
            ),
        }
        return next((reason for reason, applies in reasons.items() if applies), _device_refusal(request))

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        visibility: Visibility,
        softmax_scale: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `AttentionBackend.forward`; the log-sum-exp is float32 "batch heads chunk"."""
        calls, parts = list(_calls(visibility)), []
        for call in calls:
            output, log_sum_exp, *_ = _forward_kernel(
                call.queries_of(query),
                call.keys_of(key),
                call.keys_of(value),
                None,
                None,
                call.num_queries,
                call.num_keys,
                0.0,
                True,
                False,
                scale=softmax_scale,
                window_size_left=visibility.window,
            )
            parts.append((output.transpose(0, 1), log_sum_exp))
        if len(calls) == 1:
            output, log_sum_exp = parts[0]
            return output.contiguous(), log_sum_exp
        chunk, batch, heads, _ = query.shape
        output = torch.empty_like(query, memory_format=torch.contiguous_format)
        log_sum_exp = parts[0][1].new_empty((batch, heads, chunk))
        for call, (part, part_log_sum_exp) in zip(calls, parts, strict=True):
            output[call.queries, call.batch].copy_(part)
            call.statistics_of(log_sum_exp).copy_(part_log_sum_exp)
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
        grad_query = torch.empty_like(query, memory_format=torch.contiguous_format)
        # Where dropout's random state would be; the kernel does not read it without dropout.
        random_state = torch.zeros(2, dtype=torch.uint64, device=query.device)
        for call in _calls(visibility):
            grad_part, grad_key, grad_value = _backward_kernel(
                call.queries_of(grad_output),
                call.queries_of(query),
                call.keys_of(key),
                call.keys_of(value),
                call.queries_of(output),
                call.statistics_of(log_sum_exp).contiguous(),
                None,
                None,
                call.num_queries,
                call.num_keys,
                0.0,
                True,
                random_state,
                random_state,
                scale=softmax_scale,
                window_size_left=visibility.window,
            )
            grad_query[call.queries, call.batch].copy_(grad_part.transpose(0, 1))
            gradients.add(
                call.first_key, grad_key.transpose(1, 2), grad_value.transpose(1, 2), batch=call.batch
            )
        return grad_query


class _Call(NamedTuple):
    """One kernel call: the queries of one document (or chunk), and all keys they see."""

    batch: slice
    queries: slice
    first_key: int
    stop: int

    @property
    def num_queries(self) -> int:
        return int(self.queries.stop - self.queries.start)

    @property
    def num_keys(self) -> int:
        return self.stop - self.first_key

    def queries_of(self, heads: torch.Tensor) -> torch.Tensor:
        """View "chunk batch heads head_dim" as the kernel's "batch queries heads head_dim"."""
        return heads[self.queries, self.batch].transpose(0, 1)

    def keys_of(self, rows: torch.Tensor) -> torch.Tensor:
        """View "batch groups rows head_dim" as the kernel's "batch keys groups head_dim"."""
        return rows[self.batch, :, self.first_key : self.stop].transpose(1, 2)

    def statistics_of(self, log_sum_exp: torch.Tensor) -> torch.Tensor:
        """The call's part of "batch heads chunk"."""
        return log_sum_exp[self.batch, :, self.queries]


def _calls(visibility: Visibility) -> Iterator[_Call]:
    """One call per document with queries in the chunk, of every sequence or of all alike."""
    chunk, window = visibility.chunk, visibility.window
    rows = visibility.document_starts or ((0,),)
    are_alike = len(set(rows)) == 1
    for row, starts in enumerate(rows[:1] if are_alike else rows):
        for segment in segments_of(chunk, starts):
            reach = segment.first_key if window is None else segment.start - window
            yield _Call(
                batch=ALL_ROWS if are_alike else slice(row, row + 1),
                queries=slice(segment.start - chunk.start, segment.stop - chunk.start),
                first_key=max(segment.first_key, reach),
                stop=segment.stop,
            )


def _device_refusal(request: AttentionRequest) -> str | None:
    """What this machine's device or this build of torch lacks."""
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    if not torch.backends.cuda.is_flash_attention_available():
        return "this build of torch has no flash attention"
    capability = torch.cuda.get_device_capability()
    if capability < (8, 0):
        return f"its kernels need compute capability 8.0, and this device has {capability}"
    if capability in _SMALL_CHIPS and request.head_dim > _MAX_HEAD_DIM_SMALL_CHIPS:
        return (
            f"its backward takes head dims up to {_MAX_HEAD_DIM_SMALL_CHIPS} on compute capability "
            f"{capability}, not {request.head_dim}"
        )
    return None
