"""checkpoint.json: what a checkpoint holds, readable without torch.

It is written last, with the size of every other file: a folder without it, or with files that are
missing or short, is not a whole checkpoint.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megatron.seq1f1b.errors import CheckpointError

FILE = "checkpoint.json"
FORMAT = 1
"""Counts up with every change that older releases cannot read."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One checkpoint."""

    format: int
    iteration: int
    consumed_samples: int
    has_optimizer: bool
    has_rng: bool
    model: dict[str, Any]
    """The hyperparameters that decide names and shapes of the weights."""
    optimizer: dict[str, Any]
    """What decides the form of the optimizer's state."""
    layout: dict[str, int]
    """Sizes of the parallelism under which random states were saved."""
    versions: dict[str, str]
    configuration: dict[str, Any]
    """Every option of the run that wrote it."""
    files: dict[str, int]
    """Bytes of every other file."""


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write checkpoint.json of a folder that holds everything else."""
    text = json.dumps(asdict(manifest), indent=2) + "\n"
    (folder / FILE).write_text(text, encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a whole checkpoint.

    Raises:
        CheckpointError: a folder that is none, or not a whole one, or of a newer format.
    """
    content = _read_json(folder)
    if content.get("format", 0) > FORMAT:
        raise CheckpointError(
            f"checkpoint {folder} has format {content['format']}, newer than {FORMAT}, the newest that "
            "this release reads; use the release that wrote it"
        )
    try:
        manifest = Manifest(**content)
    except TypeError as error:
        raise CheckpointError(f"checkpoint {folder}: {FILE} is not a manifest: {error}") from error
    for name, size in manifest.files.items():
        path = folder / name
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            state = "is missing" if found is None else f"has {found} bytes instead of {size}"
            raise CheckpointError(f"checkpoint {folder} is not whole: {name} {state}")
    return manifest


def _read_json(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"checkpoint {folder} is not whole: {FILE}: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"checkpoint {folder}: {FILE} is not a manifest")
    return content


def file_sizes(folder: Path) -> dict[str, int]:
    """Bytes of every file below a folder, the manifest apart, by path."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != FILE
    }
