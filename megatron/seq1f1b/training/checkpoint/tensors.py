"""Reads the tensors of a checkpoint as they are in the whole model, in one process without a group."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as distributed
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from megatron.seq1f1b.errors import CheckpointError


def read_tensors(folder: Path, keep: Callable[[str], bool] = bool) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, by name; layers of one shape are stacked as `[layers, ...]`.

    Args:
        folder: one checkpoint, `SAVE/iter_...`.
        keep: whether the tensor of a name is wanted; all are.

    Raises:
        CheckpointError: files that are missing or cannot be read.
    """
    return {name: value for name, value in _read(folder, keep).items() if isinstance(value, torch.Tensor)}


def read_all(folder: Path, keep: Callable[[str], bool] = bool) -> dict[str, Any]:
    """As `read_tensors`, and what is kept beside them as Python's objects, as random states are."""
    return _read(folder, keep, has_objects=True)


def _read(folder: Path, keep: Callable[[str], bool], *, has_objects: bool = False) -> dict[str, Any]:
    reader = distributed.FileSystemReader(str(folder))
    try:
        found = reader.read_metadata().state_dict_metadata
        values: dict[str, Any] = {}
        for name, entry in found.items():
            if isinstance(entry, TensorStorageMetadata) and keep(name):
                values[name] = torch.empty(entry.size, dtype=entry.properties.dtype)
            elif has_objects and keep(name):
                values[name] = None
        with warnings.catch_warnings():
            # That there is no process group is what was asked for.
            warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable")
            distributed.load(values, storage_reader=reader, no_dist=True)
    except Exception as error:
        raise CheckpointError(f"cannot read checkpoint {folder}: {error}") from error
    return values
