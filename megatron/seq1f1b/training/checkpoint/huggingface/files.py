"""A folder in Hugging Face's format: `config.json`, and safetensors in one file or several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from megatron.seq1f1b.errors import CheckpointError

CONFIG, WHOLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"


def write_folder(
    folder: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor], *, max_bytes: int
) -> None:
    """Write a model; in files of at most `max_bytes` each and an index where it is larger."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    dtype = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    (folder / CONFIG).write_text(json.dumps({**config, "torch_dtype": dtype}, indent=2) + "\n")
    groups = _grouped(tensors, max_bytes)
    if len(groups) == 1:
        save_file(tensors, folder / WHOLE, metadata={"format": "pt"})
        return
    places: dict[str, str] = {}
    for number, names in enumerate(groups, start=1):
        file = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        save_file({name: tensors[name] for name in names}, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": sum(map(_bytes_of, tensors.values()))}, "weight_map": places}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The configuration and all tensors.

    Raises:
        CheckpointError: a file that is missing or cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / CONFIG).read_text())
        files = [WHOLE]
        if (folder / INDEX).exists():
            files = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
        tensors: dict[str, torch.Tensor] = {}
        for file in files:
            tensors |= load_file(folder / file)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{folder} is no whole model of Hugging Face's format: {error}") from error
    return config, tensors


def _grouped(tensors: dict[str, torch.Tensor], max_bytes: int) -> list[list[str]]:
    """Names in their order, in groups of at most so many bytes, of one tensor at least."""
    groups: list[list[str]] = [[]]
    size = 0
    for name, tensor in tensors.items():
        if groups[-1] and size + _bytes_of(tensor) > max_bytes:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += _bytes_of(tensor)
    return groups


def _bytes_of(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
