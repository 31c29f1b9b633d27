"""Flags of Megatron-LM that are none of ours: accepted with a line, or refused with what to do instead.

A launch line that worked there should start here, and what it asked for in vain should be said. What
would only be slower or shown elsewhere is accepted; what would train another model is refused.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from megatron.seq1f1b.config.megatron_flag_lists import ACCEPTED, REFUSED, REFUSED_VALUES, by_flag
from megatron.seq1f1b.errors import ConfigurationError

ANY = "X"
"""What stands in the lists for any value."""


@dataclass(frozen=True, kw_only=True)
class ForeignFlag:
    """A flag that is accepted and changes nothing; `why` is its help."""

    why: str
    takes: str | None = None
    """Nothing, any value (`X`), any values (`X...`), or the one value that means what we do."""

    def add_to(self, group: argparse._ArgumentGroup, flag: str) -> None:
        """Let the parser accept the flag."""
        if self.takes is None:
            group.add_argument(flag, dest="_without_effect", action="store_true", help=self.why)
            return
        kind = str if self.takes.startswith(ANY) else _only(self.takes, self.why)
        group.add_argument(
            flag,
            dest="_without_effect",
            nargs="+" if self.takes.endswith("...") else 1,
            metavar=ANY if self.takes.startswith(ANY) else self.takes,
            type=kind,
            help=self.why,
        )


def _only(value: str, why: str) -> Callable[[str], str]:
    def check(word: str) -> str:
        if word != value:
            raise argparse.ArgumentTypeError(f"{word} is not served here, only {value}: {why}")
        return word

    return check


def _accepted() -> dict[str, ForeignFlag]:
    found = {}
    for word, why in by_flag(ACCEPTED).items():
        flag, _, takes = word.partition("=")
        found[flag] = ForeignFlag(why=why, takes=takes or None)
    return found


WITHOUT_EFFECT = _accepted()
REPLACED = by_flag(REFUSED)
REPLACED_VALUES = by_flag(REFUSED_VALUES)


def notes_on(arguments: Iterable[str]) -> list[str]:
    """One line for each argument that is accepted and changes nothing."""
    given = dict.fromkeys(word.split("=")[0] for word in arguments)
    return [
        f"{flag} changes nothing here: {WITHOUT_EFFECT[flag].why}" for flag in given if flag in WITHOUT_EFFECT
    ]


def refuse_replaced(flags: Sequence[str]) -> None:
    """Refuse flags of Megatron-LM that are not served.

    Raises:
        ConfigurationError: with what to do instead.
    """
    known = [f"{flag} is not served here: {REPLACED[flag]}" for flag in flags if flag in REPLACED]
    if known:
        raise ConfigurationError("; ".join(known))


def refuse_values(arguments: Sequence[str]) -> None:
    """Refuse values of flags that Megatron-LM takes and that are not served.

    Raises:
        ConfigurationError: with what to do instead.
    """
    pairs = [*arguments, *map("=".join, itertools.pairwise(arguments))]
    known = [
        f"{pair.replace('=', ' ')} is not served here: {REPLACED_VALUES[pair]}"
        for pair in pairs
        if pair in REPLACED_VALUES
    ]
    if known:
        raise ConfigurationError("; ".join(known))
