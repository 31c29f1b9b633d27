"""The folder of checkpoints: atomic, never a torn one, the newest whole one instead."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megatron.seq1f1b.errors import CheckpointError, NewerFormatError
from megatron.seq1f1b.training.checkpoint import folder as folders
from megatron.seq1f1b.training.checkpoint.integrity import find_sound
from megatron.seq1f1b.training.checkpoint.manifest import (
    FORMAT,
    Manifest,
    checksum_of,
    file_sizes,
    write_manifest,
)


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
        checksums={"weights": checksum_of(partial / "weights")},
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


def flip_a_bit(path: Path) -> None:
    """Of the byte in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def test_a_damaged_one_is_named_and_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sizes are right: only contents tell."""
    for iteration in (2, 4, 6):
        folder = write(tmp_path, iteration)
    flip_a_bit(folder / "weights")
    flip_a_bit(tmp_path / "iter_0000004" / "weights")
    found = find_sound(tmp_path)
    assert found[1].iteration == 2
    said = capsys.readouterr().out.splitlines()[-1]
    assert f"{tmp_path}/iter_0000004 is damaged: the checksum of weights is " in said
    assert f"instead of {checksum_of(found[0] / 'weights')}" in said
    assert said.endswith("falling back to iter_0000002, the newest whole one")
    with pytest.raises(CheckpointError, match="iter_0000006 is damaged: the checksum of weights"):
        find_sound(tmp_path, step=6)
    flip_a_bit(found[0] / "weights")
    with pytest.raises(CheckpointError, match=r"0006 is damaged: .*0004 is damaged: .*0002 is damaged"):
        find_sound(tmp_path)


def test_a_changed_manifest_is_a_damaged_one(tmp_path: Path) -> None:
    path = write(tmp_path, 2) / "checkpoint.json"
    path.write_text(path.read_text().replace('"consumed_samples": 2', '"consumed_samples": 3'))
    with pytest.raises(CheckpointError, match=r"checkpoint\.json is not as it was written"):
        chosen(tmp_path)


def test_one_of_format_1_has_no_checksums_and_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, 2) / "checkpoint.json"
    content = json.loads(path.read_text())
    old = {name: value for name, value in content.items() if not name.startswith("checksum")}
    path.write_text(json.dumps(old | {"format": 1}))
    found = find_sound(tmp_path)
    assert found[1].checksums == {}


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
    for iteration in (2, 4, 6, 20):
        write(tmp_path, iteration)
    folders.discard_oldest(tmp_path, latest=6, keep=2)
    assert folders.iterations_of(tmp_path) == [4, 6, 20], "20 is of an earlier run"


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    """And not passed over for an older one, whose next steps would overwrite it."""
    write(tmp_path, 2)
    path = write(tmp_path, 4) / "checkpoint.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": FORMAT + 1}))
    with pytest.raises(NewerFormatError, match="newer than"):
        chosen(tmp_path)


def test_what_is_taken_for_a_folder_of_checkpoints_is_refused(tmp_path: Path) -> None:
    one = write(tmp_path, 20)
    with pytest.raises(CheckpointError, match=rf"is in: --load {tmp_path} --ckpt-step 20"):
        chosen(one)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "model.safetensors").touch()
    with pytest.raises(CheckpointError, match=r"from-hf --input .*theirs --save FOLDER"):
        chosen(tmp_path / "theirs")


def test_a_missing_step_is_refused_with_those_there_are(tmp_path: Path) -> None:
    write(tmp_path, 2)
    with pytest.raises(CheckpointError, match=r"no such checkpoint \(there are: 2\)"):
        chosen(tmp_path, step=3)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"--save .* cannot be written"):
        folders.check_writable(tmp_path / "file")
