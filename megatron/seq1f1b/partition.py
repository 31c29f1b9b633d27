"""Where to cut a sequence into chunks: costs in, boundaries out.

Later chunks attend to more keys, so even chunks take uneven time, and the slowest paces the
pipeline. With a cost a per token and b per pair of a query and a key it sees, the first x tokens
cost C(x) = a x + b P(x), where P(x) = x^2 / 2 without a window. `uniform_comp` cuts where C reaches
i/k of the whole; `average` cuts evenly. Boundaries are multiples of what tensor-sequence parallelism
and the kernels need.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from megatron.seq1f1b.chunk import Boundaries
from megatron.seq1f1b.errors import ConfigurationError

PARTITION_STRATEGIES = ("average", "uniform_comp")
PROFILED = "profiled"
"""The strategy that measures before it cuts; the trainer's, since it needs a model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """How far back queries see, where that is not to the start of the sequence."""

    keys: int
    """That a query sees, itself among them."""
    windowless_share: float = 0.0
    """Of the layers, those that attend without it."""


def pairs_of_first(tokens: float, window: Window | None = None) -> float:
    """P: pairs of a query among the first `tokens` and a key it sees, the mean over layers."""
    whole = tokens * tokens / 2.0
    if window is None or tokens <= window.keys:
        return whole
    seen = window.keys * (tokens - window.keys / 2.0)
    return window.windowless_share * whole + (1.0 - window.windowless_share) * seen


def partition(
    strategy: str,
    *,
    seq_length: int,
    chunks: int,
    multiple_of: int = 1,
    linear_cost: float = 1.0,
    attention_cost: float = 0.0,
    window: Window | None = None,
) -> Boundaries:
    """The k+1 boundaries of `chunks` non-empty chunks of a sequence of `seq_length` tokens.

    Args:
        strategy: one of `PARTITION_STRATEGIES`.
        seq_length: S, tokens of the whole sequence.
        chunks: k, how many chunks to cut.
        multiple_of: every boundary is a multiple of this many tokens.
        linear_cost: cost of a token apart from attention; only its ratio to the next matters.
        attention_cost: cost of one (query, visible key) pair.
        window: which keys are visible; None for all before a query. `average` uses none of the three.

    Raises:
        ConfigurationError: no such strategy, or the sequence cannot be cut that way.
    """
    _check_counts(seq_length=seq_length, chunks=chunks, multiple_of=multiple_of)
    if strategy == "average":
        return _average(seq_length, chunks, multiple_of)
    if strategy == "uniform_comp":
        _check_costs(linear_cost, attention_cost)
        return _uniform_comp(seq_length, chunks, multiple_of, linear_cost, attention_cost, window)
    raise ConfigurationError(
        f"--pipe-sp-strategy {strategy} does not exist; use one of "
        f"{', '.join((*PARTITION_STRATEGIES, PROFILED))}"
    )


def tokens_at_cost(
    cost: float, *, linear_cost: float, attention_cost: float, window: Window | None = None
) -> float:
    """The x for which a x + b P(x) is `cost`.

    The root of a x + b x^2 / 2 = C is written as 2 C / (a + sqrt(a^2 + 2 b C)), which loses no digits
    for small b and is right for b = 0. Beyond a window's first keys the cost is of the same form
    again: every token has a window of pairs, and more in layers that attend without it.
    """
    if window is not None:
        before = linear_cost * window.keys + attention_cost * pairs_of_first(window.keys)
        if cost > before:
            return window.keys + tokens_at_cost(
                cost - before,
                linear_cost=linear_cost + attention_cost * window.keys,
                attention_cost=attention_cost * window.windowless_share,
            )
    root = math.sqrt(linear_cost * linear_cost + 2.0 * attention_cost * cost)
    return 2.0 * cost / (linear_cost + root)


def _average(seq_length: int, chunks: int, multiple_of: int) -> Boundaries:
    if seq_length % chunks != 0 or (seq_length // chunks) % multiple_of != 0:
        raise ConfigurationError(_not_even(seq_length, chunks, multiple_of))
    length = seq_length // chunks
    return tuple(index * length for index in range(chunks + 1))


def _uniform_comp(
    seq_length: int,
    chunks: int,
    multiple_of: int,
    linear_cost: float,
    attention_cost: float,
    window: Window | None,
) -> Boundaries:
    # As shares of both costs together, the numbers stay near those of tokens.
    total = linear_cost + attention_cost * seq_length
    linear, attention = linear_cost / total, attention_cost / total
    whole = linear * seq_length + attention * pairs_of_first(seq_length, window)
    num_units = seq_length // multiple_of
    ends = [0]
    for index in range(1, chunks):
        tokens = tokens_at_cost(
            whole * index / chunks, linear_cost=linear, attention_cost=attention, window=window
        )
        lowest, highest = ends[-1] + 1, num_units - (chunks - index)
        ends.append(min(max(round(tokens / multiple_of), lowest), highest))
    return (*(end * multiple_of for end in ends), seq_length)


def _check_counts(*, seq_length: int, chunks: int, multiple_of: int) -> None:
    if seq_length < 1 or multiple_of < 1:
        raise ConfigurationError(
            f"--seq-length {seq_length} in multiples of {multiple_of} cannot be cut; both must be at least 1"
        )
    if chunks < 1:
        raise ConfigurationError(
            f"--pipe-sp-splits {chunks} leaves no chunk to compute; use 1 (no chunking) or more"
        )
    if chunks > seq_length:
        raise ConfigurationError(
            f"--pipe-sp-splits {chunks} is more than the {seq_length} tokens of --seq-length; "
            f"every chunk needs a token, so use at most {seq_length}"
        )
    if seq_length % multiple_of != 0:
        below = seq_length - seq_length % multiple_of
        nearest = f"{below} or {below + multiple_of}" if below else f"{multiple_of}"
        raise ConfigurationError(
            f"--seq-length {seq_length} is not a multiple of {multiple_of}, as chunk boundaries "
            f"must be (tensor parallelism splits every chunk's tokens); use {nearest}"
        )
    if chunks > seq_length // multiple_of:
        raise ConfigurationError(
            f"--pipe-sp-splits {chunks} is too many: --seq-length {seq_length} holds only "
            f"{seq_length // multiple_of} multiples of {multiple_of} tokens, the shortest chunk "
            f"allowed; use at most {seq_length // multiple_of}, or a longer sequence"
        )


def _check_costs(linear_cost: float, attention_cost: float) -> None:
    is_usable = all(math.isfinite(cost) and cost >= 0.0 for cost in (linear_cost, attention_cost))
    if not is_usable or linear_cost + attention_cost <= 0.0:
        raise ConfigurationError(
            f"costs of {linear_cost} per token and {attention_cost} per query and key cannot be "
            "balanced; both must be finite and not negative, and one must be positive"
        )


def _not_even(seq_length: int, chunks: int, multiple_of: int) -> str:
    """Why an average partition is impossible, with the nearest counts that are possible."""
    num_units = seq_length // multiple_of
    fewer = next(count for count in range(chunks, 0, -1) if num_units % count == 0)
    more = next(count for count in range(chunks, num_units + 1) if num_units % count == 0)
    unit = "" if multiple_of == 1 else f" in multiples of {multiple_of} tokens"
    return (
        f"--pipe-sp-splits {chunks} cannot divide --seq-length {seq_length} evenly{unit}; "
        f"use {fewer} or {more}, or --pipe-sp-strategy uniform_comp"
    )
