"""The chunk: a contiguous span of one microbatch's sequence.

Chunk boundaries travel as one tuple of k+1 token positions, 0 first and the sequence length last;
a `Chunk` is one span of it. Both are plain values that every room may use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from megatron.seq1f1b.errors import ConfigurationError

Boundaries = tuple[int, ...]
"""k+1 strictly increasing token positions: (0, ..., sequence length)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """Tokens [start, stop) of a microbatch's sequence; `index` counts from 0, `count` is k."""

    index: int
    count: int
    start: int
    stop: int

    @property
    def length(self) -> int:
        """Number of tokens in the chunk."""
        return self.stop - self.start

    @property
    def is_first(self) -> bool:
        """Whether the chunk has an empty prefix."""
        return self.index == 0

    @property
    def is_last(self) -> bool:
        """Whether no later chunk attends to this one."""
        return self.index == self.count - 1


def chunks_from(boundaries: Sequence[int]) -> tuple[Chunk, ...]:
    """The k chunks between k+1 boundaries.

    Raises:
        ConfigurationError: the boundaries do not start at 0 or do not strictly increase.
    """
    increasing = all(low < high for low, high in pairwise(boundaries))
    if len(boundaries) < 2 or boundaries[0] != 0 or not increasing:
        raise ConfigurationError(
            f"chunk boundaries {list(boundaries)} must start at 0 and strictly increase, "
            "with at least two entries; every chunk needs a token"
        )
    count = len(boundaries) - 1
    return tuple(
        Chunk(index=index, count=count, start=boundaries[index], stop=boundaries[index + 1])
        for index in range(count)
    )


class UnitLike(Protocol):
    """One chunk of one microbatch on one virtual stage, as rooms below the runtime read it."""

    @property
    def virtual_stage(self) -> int:
        """Over the whole pipeline."""

    @property
    def microbatch(self) -> int:
        """Within the step."""

    @property
    def chunk(self) -> int:
        """Within the microbatch."""
