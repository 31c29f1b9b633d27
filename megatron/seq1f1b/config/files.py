"""`--config FILE ...`: options from YAML or JSON files, as if they had been typed before the others.

Keys are flags without their leading dashes, spelled with dashes or underscores, on one level or below
the names of the sections (`model:`, `training:`, ...). The `config.json` of a run is such a file.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from megatron.seq1f1b.errors import ConfigurationError

FLAG = "--config"
_RESOLVED = "options"
"""Key of the options in a run's config.json; what stands beside it was derived from them."""


def expand_config_files(
    arguments: Sequence[str], *, parser: argparse.ArgumentParser, sections: Sequence[str]
) -> list[str]:
    """The arguments with every file's options, in the files' order, in front of the typed ones.

    Args:
        arguments: what was typed.
        parser: knows every flag and checks every value.
        sections: names below which options may stand.

    Raises:
        ConfigurationError: a file that cannot be read, or a line of it that cannot be meant, with both.
    """
    files, typed = _split(arguments)
    options = _Options(parser, sections)
    return [word for file in files for word in options.words_of(file)] + typed


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """(files, what else was typed)."""
    files: list[str] = []
    typed: list[str] = []
    is_file = False
    for word in arguments:
        if word.startswith("--"):
            is_file = word == FLAG
            if word.startswith(f"{FLAG}="):
                files.append(word.removeprefix(f"{FLAG}="))
            elif not is_file:
                typed.append(word)
        else:
            (files if is_file else typed).append(word)
    if FLAG in arguments and not files:
        raise ConfigurationError(f"{FLAG} needs the name of a YAML or JSON file")
    return files, typed


class _Options:
    """What the keys of a file may be."""

    def __init__(self, parser: argparse.ArgumentParser, sections: Sequence[str]) -> None:
        self._parser = parser
        self._sections = sections
        self._actions = {
            _key(flag): (flag, action)
            for action in parser._actions
            for flag in action.option_strings
            if flag.startswith("--") and flag not in ("--help", FLAG)
        }

    def words_of(self, file: str) -> list[str]:
        """The file as arguments."""
        words: list[str] = []
        lines: dict[str, int] = {}
        for name, value, line in self._entries(file):
            at = f"{file}:{line}"
            flag, action = self._find(name, at)
            if flag in lines:
                raise ConfigurationError(f"{at}: {name} stands in line {lines[flag]} already; keep one")
            lines[flag] = line
            given = _words(flag, action, value, at)
            try:
                self._parser.parse_known_args(given)
            except ConfigurationError as error:
                raise ConfigurationError(f"{at}: {error}") from None
            words += given
        return words

    def _find(self, name: str, at: str) -> tuple[str, argparse.Action]:
        found = self._actions.get(_key(name))
        if found is not None:
            return found
        near = difflib.get_close_matches(_key(name), self._actions, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else "keys are flags without their leading dashes"
        raise ConfigurationError(f"{at}: there is no option {name}; {hint}")

    def _entries(self, file: str) -> Iterator[tuple[str, Any, int]]:
        """(key, value, line) of every option of a file."""
        for name, value, line in _mapping(_read(file), file):
            if isinstance(value, _Mapping):
                if name not in self._sections:
                    raise ConfigurationError(
                        f"{file}:{line}: {name} is no section; there are {', '.join(self._sections)}"
                    )
                yield from _mapping(value, file)
            else:
                yield name, value, line


class _Mapping(list[tuple[str, Any, int]]):
    """The entries of a mapping: key, value and line."""


def _mapping(entries: Any, file: str) -> _Mapping:
    if not isinstance(entries, _Mapping):
        raise ConfigurationError(f"{file} must hold keys and values, as in `seq-length: 4096`")
    resolved = [value for name, value, _ in entries if name == _RESOLVED and isinstance(value, _Mapping)]
    return resolved[0] if resolved else entries


def _read(file: str) -> Any:
    """The content of a file, its mappings with their lines."""
    import yaml

    try:
        text = Path(file).read_text(encoding="utf-8")
        if file.endswith(".json"):
            text = text.replace("\t", " ")  # JSON is YAML but for tabs, which stand outside strings only
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{FLAG} {file} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{file} is no YAML or JSON: {' '.join(str(error).split())}") from error
    return _Mapping() if node is None else _value(node, yaml.SafeLoader(""))


def _value(node: Any, loader: Any) -> Any:
    if node.id == "mapping":
        return _Mapping(
            (str(key.value), _value(value, loader), key.start_mark.line + 1) for key, value in node.value
        )
    return loader.construct_object(node, deep=True)


def _words(flag: str, action: argparse.Action, value: Any, at: str) -> list[str]:
    """One option as arguments; null and an empty list leave the default."""
    if value is None or value == []:
        return []
    if action.nargs == 0:
        return _switch(flag, action, value, at)
    if isinstance(value, list):
        if action.nargs is None:
            raise ConfigurationError(f"{at}: {_key(flag)} takes one value, not a list")
        return [flag, *map(str, value)]
    return [flag, str(value)] if action.nargs is not None else [f"{flag}={value}"]


def _switch(flag: str, action: argparse.Action, value: Any, at: str) -> list[str]:
    if not isinstance(value, bool):
        raise ConfigurationError(f"{at}: {_key(flag)} is true or false, not {value}")
    if value:
        return [flag]
    return [other for other in action.option_strings if other != flag]


def _key(name: str) -> str:
    return name.removeprefix("--").replace("-", "_")
