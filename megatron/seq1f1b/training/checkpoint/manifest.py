"""checkpoint.json: what a checkpoint holds, readable without torch.

It is written last, with the size and the checksum of every other file: a folder without it, or with
files that are missing or short, is not a whole checkpoint. Sizes are looked at whenever it is read;
`integrity.py` compares contents.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from megatron.seq1f1b.errors import CheckpointError, NewerFormatError

FILE = "checkpoint.json"
FORMAT = 2
"""Counts up with every change that older releases cannot read."""
_OWN = "checksum"
_BLOCK_BYTES = 1 << 24


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
    checksums: dict[str, str] = field(default_factory=dict)
    """CRC-32 of every other file, in hexadecimal; format 1 had none."""


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write checkpoint.json, with its own checksum, of a folder that holds everything else."""
    content = asdict(manifest)
    text = json.dumps({**content, _OWN: _checksum_of_content(content)}, indent=2) + "\n"
    (folder / FILE).write_text(text, encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a whole checkpoint.

    Raises:
        CheckpointError: a folder that is none, or not a whole one, or a manifest that is not as it was
            written.
        NewerFormatError: it cannot be read.
    """
    content = _read_json(folder)
    if content.get("format", 0) > FORMAT:
        raise NewerFormatError(
            f"checkpoint {folder} has format {content['format']}, newer than {FORMAT}, the newest that "
            "this release reads; use the release that wrote it"
        )
    own = content.pop(_OWN, None)
    if own is not None and own != _checksum_of_content(content):
        raise CheckpointError(f"checkpoint {folder} is damaged: {FILE} is not as it was written")
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
    except FileNotFoundError as error:
        raise CheckpointError(
            f"checkpoint {folder} is not whole: it has no {FILE}, which is written last (Megatron-LM's own "
            "checkpoints have none and are not read)"
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"checkpoint {folder} is not whole: {FILE}: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"checkpoint {folder}: {FILE} is not a manifest")
    return content


def _checksum_of_content(content: Mapping[str, Any]) -> str:
    return _text(zlib.crc32(json.dumps(content).encode()))


def checksum_of(path: Path) -> str:
    """CRC-32 of a file, in hexadecimal: the cheapest that finds every flipped byte."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            value = zlib.crc32(block, value)
    return _text(value)


def _text(checksum: int) -> str:
    return f"{checksum:08x}"


def file_sizes(folder: Path) -> dict[str, int]:
    """Bytes of every file below a folder, the manifest apart, by path."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != FILE
    }
