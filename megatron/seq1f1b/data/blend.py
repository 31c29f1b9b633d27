"""Weights and prefixes: what `--data-path` and its per-split sisters say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron.seq1f1b.errors import ConfigurationError, DataError


@dataclass(frozen=True, kw_only=True)
class Blend:
    """Dataset prefixes with their weights, or without (then every dataset counts by its size)."""

    prefixes: tuple[str, ...]
    weights: tuple[float, ...] | None = None


def parse_blend(words: Sequence[str], *, flag: str = "--data-path") -> Blend:
    """Read `p`, `p1 p2 ...` or `w1 p1 w2 p2 ...`.

    A word is a weight if it reads as a number and no dataset of that name exists.

    Raises:
        ConfigurationError: weights for some of the prefixes only, or weights of no use.
    """
    is_weight = [_is_number(word) and not has_dataset(word) for word in words]
    if not any(is_weight):
        if not words:
            raise ConfigurationError(f"{flag} names no dataset; give prefixes of .bin/.idx pairs")
        return Blend(prefixes=tuple(words))
    if is_weight != [True, False] * (len(words) // 2):
        raise ConfigurationError(
            f"{flag} {' '.join(words)}: a weight must stand before each of the "
            f"{is_weight.count(False)} prefixes, or before none; found {is_weight.count(True)} weights"
        )
    weights = tuple(float(word) for word in words[::2])
    if not all(weight > 0 and math.isfinite(weight) for weight in weights):
        raise ConfigurationError(f"{flag}: weights {list(weights)} must be above 0 and finite")
    return Blend(prefixes=tuple(words[1::2]), weights=weights)


def read_blend_words(path: str) -> tuple[str, ...]:
    """The words of a `--data-args-path` file."""
    try:
        words = tuple(Path(path).read_text(encoding="utf-8").split())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--data-args-path {path} cannot be read: {error}") from error
    if not words:
        raise DataError(f"--data-args-path {path} is empty; it must hold what --data-path would")
    return words


def has_dataset(prefix: str) -> bool:
    """Whether one of the two files of a dataset exists."""
    return Path(f"{prefix}.idx").exists() or Path(f"{prefix}.bin").exists()


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
