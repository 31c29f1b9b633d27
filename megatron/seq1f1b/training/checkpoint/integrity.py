"""Whether the files of a checkpoint hold what was written: every byte is read once before it is loaded.

The processes share the files, so that the job reads each once, and all of them know what was found.
A file's checksum was taken by the process that wrote it, from what it had written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch.distributed as dist

from megatron.seq1f1b.errors import CheckpointError, DamageError, Seq1F1BError
from megatron.seq1f1b.training.checkpoint.folder import choose
from megatron.seq1f1b.training.checkpoint.manifest import Manifest, checksum_of
from megatron.seq1f1b.training.console import say

Choice = tuple[Path, Manifest] | None
"""A checkpoint and what it says of itself; None for there is none."""
Choose = Callable[[Mapping[Path, str]], Choice]
"""The checkpoint to load, apart from folders that are damaged, each with what is wrong with it."""


def choose_sound(choose_from: Choose, first: Choice) -> Choice:
    """The first choice, or the next whose files are as they were written; collective.

    Args:
        choose_from: asked on rank 0 for another choice.
        first: equal on every process.

    Raises:
        DamageError: on every process, where there is no other to choose.
    """
    damaged: dict[Path, str] = {}
    choice = first
    while choice is not None and (found := damage_of(*choice)):
        damaged[choice[0]] = found
        choice = _on_rank_0(lambda: choose_from(damaged))
    return choice


def find_sound(root: Path, *, step: int | None = None) -> tuple[Path, Manifest]:
    """The checkpoint of a step in a run's `--save` folder, else the latest, in a single process.

    Raises:
        CheckpointError: there is none that is whole and what was written.
    """

    def choose_from(damaged: Mapping[Path, str]) -> Choice:
        return choose(root, step=step, say=say, damaged=damaged)

    found = choose_sound(choose_from, choose_from({}))
    if found is None:
        raise CheckpointError(f"{root} holds no checkpoint; give the --save of a run")
    return found


def damage_of(folder: Path, manifest: Manifest) -> str:
    """What is wrong with a checkpoint's files, equal on every process; empty where nothing is; collective."""
    is_alone = not dist.is_initialized()
    rank, world_size = (0, 1) if is_alone else (dist.get_rank(), dist.get_world_size())
    largest_first = sorted(manifest.checksums, key=lambda name: -manifest.files.get(name, 0))
    own = _damaged(folder, manifest, largest_first[rank::world_size])
    everyone: list[list[str]] = [own] * world_size
    if not is_alone:
        dist.all_gather_object(everyone, own)
    found = [text for texts in everyone for text in texts]
    return f"checkpoint {folder} is damaged: {'; '.join(found)}" if found else ""


def _damaged(folder: Path, manifest: Manifest, names: Sequence[str]) -> list[str]:
    found = []
    for name in names:
        written = manifest.checksums[name]
        try:
            read = checksum_of(folder / name)
        except OSError as error:
            found.append(f"{name} cannot be read: {error}")
            continue
        if read != written:
            found.append(f"the checksum of {name} is {read} instead of {written}")
    return found


def _on_rank_0(choose_again: Callable[[], Choice]) -> Choice:
    """What rank 0 chooses, on every process, or its refusal."""
    if not dist.is_initialized():
        return choose_again()
    told: list[tuple[Choice, str]] = [(None, "")]
    if dist.get_rank() == 0:
        try:
            told = [(choose_again(), "")]
        except Seq1F1BError as error:
            told = [(None, str(error))]
    dist.broadcast_object_list(told, src=0)
    choice, refusal = told[0]
    if refusal:
        raise DamageError(refusal)
    return choice
