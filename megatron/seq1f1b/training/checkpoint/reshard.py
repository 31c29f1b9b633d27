"""A checkpoint written anew by one process: in as many files as wanted, with or without the optimizer.

Any layout reads any checkpoint; what changes is how it lies on disk. A run of a thousand processes
leaves thousands of files, of which two thirds and more of the bytes are the optimizer's.
"""

from __future__ import annotations

import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as distributed

from megatron.seq1f1b.errors import CheckpointError
from megatron.seq1f1b.training.checkpoint import folder as folders
from megatron.seq1f1b.training.checkpoint.manifest import (
    FORMAT,
    Manifest,
    checksum_of,
    file_sizes,
    write_manifest,
)
from megatron.seq1f1b.training.checkpoint.tensors import read_all

_SHARED = ("common.pt", "metadata.json")
"""What Megatron-Core keeps outside the sharded files, equal whatever the layout."""


def reshard(folder: Path, manifest: Manifest, save: Path, *, num_files: int, has_optimizer: bool) -> Path:
    """Write a checkpoint anew below another folder; returns its own folder there.

    The whole of it passes through the memory of this process.

    Args:
        folder: the checkpoint, whole.
        manifest: of it.
        save: folder of checkpoints to write to.
        num_files: how many files hold the tensors, where there are as many tensors.
        has_optimizer: whether the optimizer's state is kept.

    Raises:
        CheckpointError: it cannot be read or written, or is in that folder already.
    """
    if (save / folder.name).exists():
        raise CheckpointError(f"{save} already has {folder.name}; name another folder")
    folders.check_writable(save)
    values = read_all(folder, lambda name: has_optimizer or not name.startswith("optimizer."))
    partial = folders.begin(save, manifest.iteration)
    try:
        _write(values, partial, num_files)
        for name in _SHARED:
            shutil.copy(folder / name, partial / name)
        files = file_sizes(partial)
        written = replace(
            manifest,
            format=FORMAT,
            has_optimizer=manifest.has_optimizer and has_optimizer,
            files=files,
            checksums={name: checksum_of(partial / name) for name in files},
        )
        write_manifest(partial, written)
        return folders.publish(partial, manifest.iteration)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(f"cannot write checkpoint {partial}: {error}") from error


def _write(values: dict[str, Any], partial: Path, num_files: int) -> None:
    writer = distributed.FileSystemWriter(partial, thread_count=num_files)
    # An object that is a dictionary stays one.
    planner = distributed.DefaultSavePlanner(flatten_state_dict=False)
    with warnings.catch_warnings():
        # That there is no process group is what was asked for.
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable")
        distributed.save(values, storage_writer=writer, planner=planner, no_dist=True)
