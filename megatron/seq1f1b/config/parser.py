"""Flags from the option dataclasses, and a configuration from flags.

No abbreviations; a flag given twice counts the last time; an unknown flag is refused with the
nearest one that exists, before anything else is looked at.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import types
import typing
from collections.abc import Sequence
from typing import Any, NoReturn

from megatron.seq1f1b.config import files
from megatron.seq1f1b.config.fields import field_help
from megatron.seq1f1b.config.megatron_flags import WITHOUT_EFFECT, refuse_replaced, refuse_values
from megatron.seq1f1b.config.options import Config
from megatron.seq1f1b.errors import ConfigurationError


def parse_arguments(arguments: Sequence[str]) -> Config:
    """The configuration that command-line arguments (without the program's name) ask for.

    Raises:
        ConfigurationError: an unknown flag, a missing one, or a value of the wrong type.
        SystemExit: `--help` was asked for and printed.
    """
    parser = make_parser()
    arguments = with_config_files(arguments)
    _refuse_unknown_flags(arguments, parser)
    refuse_values(arguments)
    values, left_over = parser.parse_known_args(list(arguments))
    if left_over:
        words = ", ".join(map(repr, left_over))
        raise ConfigurationError(f"{words} belongs to no flag; --help lists the flags and their values")
    missing = [_flag(name) for name in _required() if getattr(values, name) is None]
    if missing:
        raise ConfigurationError(f"{', '.join(missing)} must be given; --help lists all flags")
    return Config(**{name: _section(options, values) for name, options in _sections()})


def with_config_files(arguments: Sequence[str]) -> list[str]:
    """The arguments with the options of `--config` files in front; without such files as they are.

    Raises:
        ConfigurationError: a file that cannot be read or meant, with its line.
    """
    if not any(word.split("=")[0] == files.FLAG for word in arguments):
        return list(arguments)
    sections = [name for name, _ in _sections()]
    return files.expand_config_files(arguments, parser=make_parser(), sections=sections)


def make_parser() -> argparse.ArgumentParser:
    """The parser of every option, grouped by section."""
    parser = _RaisingParser(
        prog="pretrain_gpt.py",
        usage="torchrun [...] pretrain_gpt.py [--flag value ...]",
        description="Pretrain a GPT with Seq1F1B pipeline parallelism on Megatron-Core.",
        allow_abbrev=False,
        formatter_class=_OneLineEach,
    )
    group = parser.add_argument_group("Configuration files")
    group.add_argument(
        files.FLAG, nargs="+", metavar="FILE", help="YAML or JSON files of options; later ones and flags win."
    )
    for _, options in _sections():
        assert options.__doc__ is not None
        group = parser.add_argument_group(options.__doc__.split("\n")[0].rstrip("."))
        types_of = typing.get_type_hints(options)
        texts = field_help(options)
        for option in dataclasses.fields(options):
            _add(group, option, types_of[option.name], texts[option.name])
    group = parser.add_argument_group("Flags of Megatron-LM that are accepted and change nothing here")
    for flag, foreign in WITHOUT_EFFECT.items():
        foreign.add_to(group, flag)
    return parser


def _sections() -> list[tuple[str, type]]:
    hints = typing.get_type_hints(Config)
    return [(section.name, hints[section.name]) for section in dataclasses.fields(Config)]


def _required() -> list[str]:
    """Options without a default."""
    return [
        option.name
        for _, options in _sections()
        for option in dataclasses.fields(options)
        if _is_required(option)
    ]


def _is_required(option: dataclasses.Field[Any]) -> bool:
    return option.default is dataclasses.MISSING and option.default_factory is dataclasses.MISSING


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _section(options: type, values: argparse.Namespace) -> Any:
    return options(**{o.name: getattr(values, o.name) for o in dataclasses.fields(options)})


def _add(group: argparse._ArgumentGroup, option: dataclasses.Field[Any], hint: Any, text: str) -> None:
    """One flag for one field."""
    flag, default = _flag(option.name), option.default
    if option.default_factory is not dataclasses.MISSING:
        default = option.default_factory()
    elif _is_required(option):
        default, text = None, f"{text} Required."
    if hint is not bool and default not in (None, []):
        text = f"{text} (default: {default})"
    text = text.replace("%", "%%")
    if hint is bool:
        # A name that says no already has no opposite.
        action = "store_true" if option.name.startswith("no_") else argparse.BooleanOptionalAction
        group.add_argument(flag, action=action, default=default, help=text)
        return
    kind = _without_none(hint)
    extra: dict[str, Any] = {"type": kind, "metavar": _metavar(kind)}
    if typing.get_origin(kind) is typing.Literal:
        extra = {"choices": typing.get_args(kind)}
    elif typing.get_origin(kind) is list:
        extra = {"type": typing.get_args(kind)[0], "nargs": "*", "metavar": "X"}
    group.add_argument(flag, default=default, help=text, **extra)


def _without_none(hint: Any) -> Any:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        (kind,) = (arg for arg in typing.get_args(hint) if arg is not type(None))
        return kind
    return hint


def _metavar(kind: Any) -> str:
    return {int: "N", float: "X"}.get(kind, "TEXT")


def _refuse_unknown_flags(arguments: Sequence[str], parser: argparse.ArgumentParser) -> None:
    flags = [flag for action in parser._actions for flag in action.option_strings]
    unknown = [
        word.split("=")[0] for word in arguments if word.startswith("--") and word.split("=")[0] not in flags
    ]
    refuse_replaced(unknown)
    if unknown:
        raise ConfigurationError("; ".join(_unknown(flag, flags) for flag in dict.fromkeys(unknown)))


def _unknown(flag: str, flags: list[str]) -> str:
    near = difflib.get_close_matches(flag, flags, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else "--help lists the flags"
    return f"there is no flag {flag}; {hint}"


class _OneLineEach(argparse.HelpFormatter):
    """Each flag on a line of its own with its help behind it, however wide the terminal is."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=70, width=200)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if isinstance(action, argparse.BooleanOptionalAction):
            return "--[no-]" + action.option_strings[0].removeprefix("--")
        return super()._format_action_invocation(action)


class _RaisingParser(argparse.ArgumentParser):
    """Raises instead of printing the usage and exiting."""

    def error(self, message: str) -> NoReturn:
        if message.endswith("expected one argument"):
            message += "; a value that begins with a minus sign goes behind =, as in --flag=-1,0"
        raise ConfigurationError(message.removeprefix("argument "))
