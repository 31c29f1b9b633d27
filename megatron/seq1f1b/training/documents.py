"""Packed documents: from the batch's tensor to what attention reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

DocumentStarts = tuple[tuple[int, ...], ...]
"""For each sequence of a microbatch, where its documents start."""


class DocumentReader:
    """Gives a chunk's parameters the starts of the documents of its whole sequences.

    The starts are read from the device once per microbatch: all its chunks bring the same tensor.
    """

    def __init__(self) -> None:
        self._tensor: torch.Tensor | None = None
        self._starts: DocumentStarts = ()

    def __call__(self, batch: Mapping[str, Any]) -> object:
        """The batch's `packed_seq_params`, with documents where the batch says where they start."""
        params, tensor = batch.get("packed_seq_params"), batch.get("document_starts")
        if tensor is None:
            return params
        assert dataclasses.is_dataclass(params), "Megatron-Core's schedules are refused with documents"
        assert not isinstance(params, type)
        if tensor is not self._tensor:
            self._tensor, self._starts = tensor, starts_of(tensor)
        return dataclasses.replace(params, document_starts=self._starts)


def starts_of(tensor: torch.Tensor) -> DocumentStarts:
    """For each sequence of `[batch, sequence]` starts by token, its documents' starts, ascending."""
    return tuple(tuple(torch.unique_consecutive(row).tolist()) for row in tensor)
