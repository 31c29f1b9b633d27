"""Output projection and cross-entropy of a few tokens at a time, so that few tokens' logits exist.

Backward computes the logits of a slice again instead of keeping them: one more product of the output
layer for a memory that no longer grows with the sequence, since a stage runs the forwards of all
chunks of a microbatch before its first backward, and would keep their probabilities until then.

With sequence parallelism a process holds every t-th part of the chunk's tokens, and a slice is the
same rows of each part:

    chunk's tokens   [ part 0: a b c d | part 1: e f g h ]
    slices of 4      a b e f, then c d g h
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.checkpoint import checkpoint

TokenLosses = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Hidden states [rows, batch, hidden] and labels [batch, tokens] to losses [batch, tokens]."""


def sliced_losses(
    hidden: torch.Tensor,
    labels: torch.Tensor,
    losses_of: TokenLosses,
    *,
    max_tokens: int,
    num_parts: int = 1,
) -> torch.Tensor:
    """The losses of a chunk's tokens, `[batch, tokens]`.

    Args:
        hidden: `[tokens / num_parts, batch, hidden]`, this process's part of the chunk.
        labels: `[batch, tokens]`.
        losses_of: output layer and cross-entropy; gathers the parts itself.
        max_tokens: whose logits may exist at once, over all sequences of the microbatch; rounded
            to at least one row of each part.
        num_parts: processes that share the sequence.
    """
    batch = labels.shape[0]
    rows = max(1, max_tokens // (batch * num_parts))
    labels_of_parts = labels.view(batch, num_parts, -1)
    losses = []
    for start in range(0, hidden.shape[0], rows):
        some = hidden[start : start + rows]
        some_labels = labels_of_parts[:, :, start : start + rows]
        loss = checkpoint(
            losses_of, some, some_labels.flatten(1), use_reentrant=False, preserve_rng_state=False
        )
        losses.append(loss.view(some_labels.shape))
    return torch.cat(losses, dim=2).flatten(1)
