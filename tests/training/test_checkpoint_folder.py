"""The folder of checkpoints: atomic, never a torn one, the newest whole one instead."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megatron.seq1f1b.errors import CheckpointError
from megatron.seq1f1b.training.checkpoint import folder as folders
from megatron.seq1f1b.training.checkpoint.manifest import FORMAT, Manifest, file_sizes, write_manifest


def write(root: Path, iteration: int) -> Path:
    """A checkpoint with one file, published."""
    partial = folders.begin(root, iteration)
    (partial / "weights").write_bytes(b"12345")
    manifest = Manifest(
        format=FORMAT,
        iteration=iteration,
        consumed_samples=iteration,
        has_optimizer=True,
        has_rng=True,
        model={},
        optimizer={},
        layout={},
        versions={},
        configuration={},
        files=file_sizes(partial),
    )
    write_manifest(partial, manifest)
    return folders.publish(partial, iteration)


def chosen(root: Path, *, step: int | None = None) -> tuple[int | None, list[str]]:
    """The step that would be loaded, and what is said about it."""
    said: list[str] = []
    found = folders.choose(root, step=step, say=said.append)
    return (None if found is None else found[1].iteration), said


def test_the_latest_is_chosen(tmp_path: Path) -> None:
    assert chosen(tmp_path) == (None, [])
    assert chosen(tmp_path / "absent") == (None, [])
    for iteration in (2, 10):
        write(tmp_path, iteration)
    assert chosen(tmp_path) == (10, [])
    assert chosen(tmp_path, step=2) == (2, [])
    assert (tmp_path / folders.LATEST).read_text() == "10"


@pytest.mark.parametrize("damage", ["short", "missing", "no manifest"])
def test_a_torn_one_is_passed_over_with_a_message(tmp_path: Path, damage: str) -> None:
    write(tmp_path, 2)
    torn = write(tmp_path, 4)
    if damage == "short":
        (torn / "weights").write_bytes(b"123")
    else:
        (torn / ("weights" if damage == "missing" else "checkpoint.json")).unlink()
    iteration, said = chosen(tmp_path)
    assert iteration == 2
    assert "iter_0000004 is not whole" in said[0]
    assert "falling back to iter_0000002" in said[0]
    with pytest.raises(CheckpointError, match="not whole"):
        chosen(tmp_path, step=4)


def test_a_latest_that_names_nothing_falls_back(tmp_path: Path) -> None:
    write(tmp_path, 2)
    (tmp_path / folders.LATEST).write_text("7")
    assert chosen(tmp_path)[0] == 2
    (tmp_path / folders.LATEST).write_text("")
    assert chosen(tmp_path)[0] == 2


def test_all_torn_is_an_error(tmp_path: Path) -> None:
    (write(tmp_path, 2) / "weights").unlink()
    with pytest.raises(CheckpointError, match="weights is missing"):
        chosen(tmp_path)


def test_what_a_killed_save_left_is_invisible_and_removed_by_the_next(tmp_path: Path) -> None:
    write(tmp_path, 2)
    (folders.begin(tmp_path, 4) / "weights").write_bytes(b"1")
    assert chosen(tmp_path) == (2, [])
    write(tmp_path, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "iter_0000002",
        "iter_0000004",
        folders.LATEST,
    ]


def test_a_step_can_be_saved_again(tmp_path: Path) -> None:
    write(tmp_path, 2)
    write(tmp_path, 2)
    assert chosen(tmp_path) == (2, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["iter_0000002", folders.LATEST]


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for iteration in (2, 4, 6):
        write(tmp_path, iteration)
    folders.discard_oldest(tmp_path, keep=2)
    assert folders.iterations_of(tmp_path) == [4, 6]


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, 2) / "checkpoint.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": FORMAT + 1}))
    with pytest.raises(CheckpointError, match="newer than"):
        chosen(tmp_path)


def test_a_missing_step_is_refused_with_those_there_are(tmp_path: Path) -> None:
    write(tmp_path, 2)
    with pytest.raises(CheckpointError, match=r"no such checkpoint \(there are: 2\)"):
        chosen(tmp_path, step=3)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"--save .* cannot be written"):
        folders.check_writable(tmp_path / "file")
