"""Files that appear under their name complete or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from megatron.seq1f1b.errors import DataError


def partial_path(path: Path) -> Path:
    """Where `path` is written until it is complete; the next run overwrites what a kill left."""
    return path.with_name(path.name + ".partial")


@contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Turn a full disk, a missing right and the like into one message."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{path} cannot be written: {error.strerror or error}; nothing was left behind, give "
            "another place or make room"
        ) from error


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A binary file that takes the name `path` when the block ends without an error.

    Raises:
        DataError: the disk is full or the place cannot be written.
    """
    partial = partial_path(path)
    try:
        with explain_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as stream:
                yield stream
                flush_to_disk(stream)
            partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink()


def flush_to_disk(stream: BinaryIO) -> None:
    """Make sure that a name given afterwards never stands for missing bytes."""
    stream.flush()
    os.fsync(stream.fileno())
