"""The folder of a run's checkpoints: one is visible once it is whole, and a torn one is never chosen.

A checkpoint is written below a name that starts with a dot and gets its real name in one rename.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from megatron.seq1f1b.errors import CheckpointError, NewerFormatError
from megatron.seq1f1b.training.checkpoint.manifest import FILE, Manifest, read_manifest

LATEST = "latest_checkpointed_iteration.txt"
_NAME = re.compile(r"iter_(\d{7,})")
_PARTIAL = ".partial-iter_"


def name_of(iteration: int) -> str:
    """The folder name of a step's checkpoint."""
    return f"iter_{iteration:07d}"


def partial_of(root: Path, iteration: int) -> Path:
    """The folder that a step's checkpoint is written in until it is whole."""
    return root / f"{_PARTIAL}{iteration:07d}"


def iterations_of(root: Path) -> list[int]:
    """Steps that have a checkpoint's folder, ascending; whether it is whole is not looked at."""
    if not root.is_dir():
        return []
    matches = (_NAME.fullmatch(path.name) for path in root.iterdir() if path.is_dir())
    return sorted(int(match.group(1)) for match in matches if match)


def choose(
    root: Path,
    *,
    step: int | None,
    say: Callable[[str], None],
    damaged: Mapping[Path, str] = MappingProxyType({}),
) -> tuple[Path, Manifest] | None:
    """The checkpoint to load: the one asked for, else the latest, else the newest whole one.

    Args:
        root: the folder of all checkpoints.
        step: the one asked for.
        say: told why a newer one was passed over.
        damaged: folders whose contents were found not to be what was written, and what was found.

    Raises:
        CheckpointError: the one asked for is missing or not whole, or of all there none is whole; or the
            folder is something else.
        NewerFormatError: a newer release wrote it.
    """
    _check_kind(root)
    if step is not None:
        folder = root / name_of(step)
        if not folder.is_dir():
            there = ", ".join(map(str, iterations_of(root))) or "none"
            raise CheckpointError(f"--ckpt-step {step}: {root} has no such checkpoint (there are: {there})")
        return folder, _manifest_of(folder, damaged)
    failures = []
    for iteration in _candidates(root):
        folder = root / name_of(iteration)
        try:
            manifest = _manifest_of(folder, damaged)
        except NewerFormatError:
            raise  # it is whole: steps after an older one would overwrite it
        except CheckpointError as error:
            failures.append(str(error))
            continue
        if failures:
            say(f"{'; '.join(failures)}; falling back to {folder.name}, the newest whole one")
        return folder, manifest
    if failures:
        raise CheckpointError("; ".join(failures))
    return None


def _check_kind(root: Path) -> None:
    """Refuse what is easily taken for a folder of checkpoints."""
    if root.is_file():
        raise CheckpointError(f"--load {root} is a file; give the folder that --save of a run named")
    if (root / FILE).is_file():
        step = root.name.removeprefix("iter_").lstrip("0") or "0"
        raise CheckpointError(
            f"--load {root} is one checkpoint; give the folder that it is in: --load {root.parent} "
            f"--ckpt-step {step}"
        )
    if any(root.glob("*.safetensors")):
        raise CheckpointError(
            f"--load {root} holds a model in Hugging Face's format; make it a checkpoint first: "
            f"python tools/convert_checkpoint.py from-hf --input {root} --save FOLDER"
        )


def _manifest_of(folder: Path, damaged: Mapping[Path, str]) -> Manifest:
    if folder in damaged:
        raise CheckpointError(damaged[folder])
    return read_manifest(folder)


def _candidates(root: Path) -> list[int]:
    """Steps in the order in which they are tried."""
    newest_first = iterations_of(root)[::-1]
    try:
        latest = int((root / LATEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return newest_first
    return [latest, *(iteration for iteration in newest_first if iteration != latest)]


def check_writable(root: Path) -> None:
    """Make the folder and try to write in it.

    Raises:
        CheckpointError: it cannot be written, and why.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        raise CheckpointError(f"--save {root} cannot be written: {error}") from error


def free_bytes(path: Path) -> int:
    """Bytes that may still be written to the disk of a folder, or of its nearest ancestor there is."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def begin(root: Path, iteration: int) -> Path:
    """A new empty folder to write a checkpoint into; what killed runs left is removed."""
    for left_over in root.glob(f"{_PARTIAL}*"):
        shutil.rmtree(left_over)
    folder = partial_of(root, iteration)
    folder.mkdir(parents=True)
    return folder


def publish(partial: Path, iteration: int) -> Path:
    """Flush a whole checkpoint to disk and give it its name, in one rename."""
    for path in partial.rglob("*"):
        _flush(path)
    _flush(partial)
    root, folder = partial.parent, partial.parent / name_of(iteration)
    if folder.exists():
        # Of a run that was resumed from an earlier step.
        old = root / f"{_PARTIAL}old-{iteration:07d}"
        folder.rename(old)
        partial.rename(folder)
        shutil.rmtree(old)
    else:
        partial.rename(folder)
    _flush(root)
    _write_latest(root, iteration)
    return folder


def discard_oldest(root: Path, *, latest: int, keep: int) -> None:
    """Remove all checkpoints up to the latest but the newest `keep`; later ones are of an earlier run."""
    for iteration in [step for step in iterations_of(root) if step <= latest][:-keep]:
        doomed = root / f"{_PARTIAL}old-{iteration:07d}"
        (root / name_of(iteration)).rename(doomed)
        shutil.rmtree(doomed)


def _write_latest(root: Path, iteration: int) -> None:
    temporary = root / f"{LATEST}.new"
    temporary.write_text(str(iteration), encoding="utf-8")
    _flush(temporary)
    temporary.replace(root / LATEST)
    _flush(root)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
