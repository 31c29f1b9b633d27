"""Packed documents: from the batch's tensor to what attention reads."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from megatron.seq1f1b.model.documents import DocumentParams

DocumentStarts = tuple[tuple[int, ...], ...]
"""For each sequence of a microbatch, where its documents start."""


class DocumentReader:
    """Says where the documents of a batch's sequences start, where the batch says so.

    The starts are read from the device once per microbatch: all its chunks bring the same tensor.
    """

    def __init__(self) -> None:
        self._tensor: torch.Tensor | None = None
        self._starts: DocumentStarts = ()

    def __call__(self, batch: Mapping[str, torch.Tensor]) -> DocumentParams | None:
        """What the forward step gives the model as `packed_seq_params`."""
        tensor = batch.get("document_starts")
        if tensor is None:
            return None
        if tensor is not self._tensor:
            self._tensor, self._starts = tensor, starts_of(tensor)
        return DocumentParams(document_starts=self._starts)


def starts_of(tensor: torch.Tensor) -> DocumentStarts:
    """For each sequence of `[batch, sequence]` starts by token, its documents' starts, ascending."""
    return tuple(tuple(torch.unique_consecutive(row).tolist()) for row in tensor)
