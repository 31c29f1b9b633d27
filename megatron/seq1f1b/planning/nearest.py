"""Numbers that would have been possible, for messages."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(asked: int, possible: Iterable[int]) -> str:
    """The nearest possible numbers below and above, as in "4 or 8"; empty without any."""
    numbers = set(possible)
    below = max((number for number in numbers if number < asked), default=None)
    above = min((number for number in numbers if number > asked), default=None)
    return " or ".join(str(number) for number in (below, above) if number is not None)
