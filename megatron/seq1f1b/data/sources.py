"""Where a run's samples come from, out of the several flags that can say it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise

from megatron.seq1f1b.data.blend import Blend, parse_blend, read_blend_words
from megatron.seq1f1b.data.settings import DataSettings
from megatron.seq1f1b.errors import ConfigurationError

SPLITS = ("train", "valid", "test")
Sizes = tuple[int, int, int]
"""Samples asked for: training, validation, test."""


@dataclass(frozen=True, kw_only=True)
class Blends:
    """Where samples come from: one blend to be split, or one blend per split."""

    common: Blend | None
    per_split: tuple[Blend | None, Blend | None, Blend | None] | None

    @property
    def prefixes(self) -> tuple[str, ...]:
        """Every prefix once, in order."""
        blends = (self.common, *(self.per_split or ()))
        return tuple(dict.fromkeys(prefix for blend in blends if blend for prefix in blend.prefixes))


def resolve_blends(settings: DataSettings) -> Blends | None:
    """The blends that the settings name, `None` for mock data.

    Raises:
        ConfigurationError: none, or two ways of naming them at once.
    """
    per_split = (settings.train_data_path, settings.valid_data_path, settings.test_data_path)
    ways = [
        bool(settings.data_path),
        settings.data_args_path is not None,
        any(per_split),
        settings.mock_data,
    ]
    if sum(ways) != 1:
        raise ConfigurationError(
            "data come from exactly one of --data-path, --data-args-path, --train-data-path with "
            f"its --valid- and --test- sisters, or --mock-data; {sum(ways)} of these are given"
        )
    if settings.mock_data:
        return None
    if any(per_split):
        flags = [f"--{name}-data-path" for name in SPLITS]
        train, valid, test = (
            parse_blend(words, flag=flag) if words else None
            for words, flag in zip(per_split, flags, strict=True)
        )
        return Blends(common=None, per_split=(train, valid, test))
    if settings.data_args_path is not None:
        words = read_blend_words(settings.data_args_path)
        return Blends(common=parse_blend(words, flag="--data-args-path"), per_split=None)
    return Blends(common=parse_blend(settings.data_path), per_split=None)


def parse_split(split: str) -> tuple[tuple[float, float] | None, ...]:
    """The part of the documents that each split gets, as (begin, end) in [0, 1]; `None`: no part.

    Raises:
        ConfigurationError: not one to three numbers from 0 up, or all of them 0.
    """
    words = split.split(",")
    try:
        weights = [float(word) for word in words]
    except ValueError:
        weights = []
    total = sum(weights)
    if not 1 <= len(weights) <= len(SPLITS) or min(weights) < 0 or not 0 < total < float("inf"):
        raise ConfigurationError(
            f"--split {split} must be one to three numbers from 0 up, not all 0, for "
            f"{', '.join(SPLITS)}, as in 969,30,1"
        )
    weights += [0.0] * (len(SPLITS) - len(weights))
    edges = accumulate((weight / total for weight in weights), initial=0.0)
    return tuple((low, high) if high > low else None for low, high in pairwise(edges))
