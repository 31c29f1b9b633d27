"""From S+1 token ids to the fields of one sample.

Positions, loss mask and document starts follow from the tokens and the document rules; they are
computed here, once for real and for mock data, in time linear in S however many documents a sample
holds.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from megatron.seq1f1b.data.settings import DocumentRules

Sample = dict[str, Tensor]
"""tokens, labels, position_ids (int64 [S]), loss_mask (float32 [S]) and, only where documents do
not attend to each other, document_starts (int64 [S])."""


class SampleDataset(Protocol):
    """What `batches` draws from."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


def document_starts(tokens: Tensor, *, eod: int) -> Tensor:
    """For each token of `tokens` [S], the index of its document's first token in the sample.

    An end-of-document id belongs to the document that it ends.
    """
    starts = torch.zeros_like(tokens)
    starts[1:] = torch.arange(1, tokens.numel()) * (tokens[:-1] == eod)
    return starts.cummax(dim=0).values


def sample_fields(
    tokens: Tensor, labels: Tensor, *, rules: DocumentRules, loss_mask: Tensor | None = None
) -> Sample:
    """The sample of `tokens` and `labels` (int64 [S]) under `rules`.

    Args:
        tokens: input ids.
        labels: the ids to predict, `tokens` one step ahead.
        rules: what an end of document resets or masks.
        loss_mask: float32 [S] to begin with; zeros stay zero. Default: ones.
    """
    mask = torch.ones_like(tokens, dtype=torch.float32) if loss_mask is None else loss_mask
    positions = torch.arange(tokens.numel())
    sample = {"tokens": tokens, "labels": labels, "position_ids": positions, "loss_mask": mask}
    if rules.eod_mask_loss:
        sample["loss_mask"] = mask * (tokens != rules.eod)
    if rules.reset_position_ids or rules.reset_attention_mask:
        starts = document_starts(tokens, eod=rules.eod)
        if rules.reset_position_ids:
            sample["position_ids"] = positions - starts
        if rules.reset_attention_mask:
            sample["document_starts"] = starts
    return sample
