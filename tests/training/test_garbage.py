"""`--manual-gc`: garbage is collected when the flags say so, and at no other time."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from megatron.seq1f1b.config import parse_arguments
from megatron.seq1f1b.training.garbage import Garbage
from tests.config.flags import words


@pytest.fixture
def collections() -> Iterator[list[int]]:
    """The generation of every collection of the test."""
    found: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            found.append(info["generation"])

    gc.callbacks.append(note)
    yield found
    gc.callbacks.remove(note)
    gc.enable()


def train(flags: str, collections: list[int]) -> None:
    """Four steps, a validation after the second, each with enough objects for collections."""
    config = parse_arguments(words(flags))
    collections.clear()
    garbage = Garbage(config)
    for iteration in range(1, 5):
        [[index] for index in range(100_000)]
        if iteration == 2:
            garbage.beside_validation()
            garbage.beside_validation()
        garbage.after_step(iteration)
    garbage.close()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--manual-gc", [2, 0, 0]),
        ("--manual-gc --manual-gc-interval 2", [2, 0, 0, 2, 2]),
        ("--manual-gc --manual-gc-interval 3 --no-manual-gc-eval", [2, 2]),
    ],
)
def test_collections_are_where_they_were_asked_for(
    flags: str, expected: list[int], collections: list[int]
) -> None:
    train(flags, collections)
    assert collections == expected
    assert gc.isenabled()


def test_otherwise_python_decides(collections: list[int]) -> None:
    train("", collections)
    assert 0 in collections and len(collections) > 5
