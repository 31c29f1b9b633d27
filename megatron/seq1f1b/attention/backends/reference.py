"""Plain attention with an explicit mask: what every other backend is compared with.

Scores of chunk x stop are materialised, in float32 or wider. Slow and large on purpose: it shares
nothing with the kernels it judges.
"""

from __future__ import annotations

import torch

from megatron.seq1f1b.attention.backends.base import AttentionRequest
from megatron.seq1f1b.attention.gradients import KVGradients
from megatron.seq1f1b.attention.spans import Visibility, segments_of


class ReferenceBackend:
    """Serves any device, dtype, window and document layout."""

    name = "reference"

    def refusal(self, request: AttentionRequest) -> str | None:
        """Only dropout is refused."""
        return "it has no attention dropout" if request.dropout > 0 else None

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        visibility: Visibility,
        softmax_scale: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `AttentionBackend.forward`; the log-sum-exp is "batch groups repeat chunk"."""
        wide = torch.promote_types(query.dtype, torch.float32)
        key, value = (rows[:, :, : visibility.chunk.stop] for rows in (key, value))
        scores = _scores(query.to(wide), key.to(wide), visibility, softmax_scale)
        log_sum_exp = scores.logsumexp(dim=-1)
        weights = (scores - log_sum_exp.unsqueeze(-1)).exp()
        output = torch.einsum("bgrqk,bgkd->qbgrd", weights, value.to(wide))
        return output.reshape(query.shape).to(query.dtype).contiguous(), log_sum_exp

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
        wide = log_sum_exp.dtype
        key, value = (rows[:, :, : visibility.chunk.stop] for rows in (key, value))
        query_wide, key_wide, value_wide = query.to(wide), key.to(wide), value.to(wide)
        grad_wide = _by_group(grad_output.to(wide), key)
        scores = _scores(query_wide, key_wide, visibility, softmax_scale)
        weights = (scores - log_sum_exp.unsqueeze(-1)).exp()
        grad_weights = torch.einsum("qbgrd,bgkd->bgrqk", grad_wide, value_wide)
        delta = (grad_wide * _by_group(output.to(wide), key)).sum(-1).permute(1, 2, 3, 0)
        grad_scores = weights * (grad_weights - delta.unsqueeze(-1)) * softmax_scale
        grad_query = torch.einsum("bgrqk,bgkd->qbgrd", grad_scores, key_wide)
        gradients.add(
            0,
            torch.einsum("bgrqk,qbgrd->bgkd", grad_scores, _by_group(query_wide, key)),
            torch.einsum("bgrqk,qbgrd->bgkd", weights, grad_wide),
        )
        return grad_query.reshape(query.shape).to(query.dtype)


def _by_group(heads: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Split "chunk batch heads head_dim" into "chunk batch groups repeat head_dim"."""
    chunk, batch, _, head_dim = heads.shape
    return heads.reshape(chunk, batch, key.shape[1], -1, head_dim)


def _scores(
    query: torch.Tensor, key: torch.Tensor, visibility: Visibility, softmax_scale: float
) -> torch.Tensor:
    """Scaled scores "batch groups repeat chunk stop", minus infinity where a key is not seen."""
    scores = torch.einsum("qbgrd,bgkd->bgrqk", _by_group(query, key), key) * softmax_scale
    mask = _visible(visibility, batch=key.shape[0], device=key.device)
    return scores.masked_fill(~mask[:, None, None], float("-inf"))


def _visible(visibility: Visibility, *, batch: int, device: torch.device) -> torch.Tensor:
    """Whether each query sees each key, "batch chunk stop"."""
    chunk = visibility.chunk
    queries = torch.arange(chunk.start, chunk.stop, device=device)[:, None]
    keys = torch.arange(chunk.stop, device=device)[None, :]
    visible = keys <= queries
    if visibility.window is not None:
        visible &= keys >= queries - visibility.window
    rows = visible.repeat(batch, 1, 1)
    for row, starts in enumerate(visibility.document_starts or ()):
        for segment in segments_of(chunk, starts):
            first, stop = segment.start - chunk.start, segment.stop - chunk.start
            rows[row, first:stop, : segment.first_key] = False
    return rows
