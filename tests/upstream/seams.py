"""Every name of `megatron.core` that the package uses, with its signature.

    python -m tests.upstream.seams        # prints them; seams.txt holds what was checked

A release that changes one shows up as a difference, before any number is wrong. Configuration classes
stand there by name alone: they refuse unknown fields themselves.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from megatron.seq1f1b.upstream import install_cpu_support

PACKAGE = Path(__file__).resolve().parents[2] / "megatron" / "seq1f1b"
LIST = Path(__file__).with_name("seams.txt")
UPSTREAM = "megatron.core"


def seams() -> dict[str, str]:
    """By full name, what it takes; without names that something in this process has replaced."""
    install_cpu_support()
    used = {each for path in sorted(PACKAGE.rglob("*.py")) for each in _used(path)}
    found = {f"{module}.{name}": _value(module, name) for module, name in sorted(used)}
    return {name: _taken(value) for name, value in found.items() if not _is_replaced(value)}


def listed() -> dict[str, str]:
    """What was checked, as `seams` gives it."""
    lines = (line.split(" ", 1) for line in LIST.read_text().splitlines())
    return {line[0]: line[1] for line in lines}


def _used(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of what a file imports, or reaches through a module that it imports."""
    tree = ast.parse(path.read_text())
    modules: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules.update(
                {each.asname or "": each.name for each in node.names if each.name.startswith(UPSTREAM)}
            )
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(UPSTREAM):
            for each in node.names:
                if isinstance(_value(str(node.module), each.name), ModuleType):
                    modules[each.asname or each.name] = f"{node.module}.{each.name}"
                else:
                    yield str(node.module), each.name
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            yield modules[node.value.id], node.attr


def _value(module: str, name: str) -> object:
    found = importlib.import_module(module)
    if not hasattr(found, name):
        try:
            return importlib.import_module(f"{module}.{name}")
        except ImportError:
            return None
    return getattr(found, name)


def _is_replaced(value: object) -> bool:
    return callable(value) and not str(getattr(value, "__module__", "")).startswith(UPSTREAM)


def _taken(value: object) -> str:
    if dataclasses.is_dataclass(value):
        return "configuration"
    if not callable(value):
        return "value"
    return f"({', '.join(_parameters(value))})"


def _parameters(value: object) -> Iterator[str]:
    for parameter in inspect.signature(value).parameters.values():  # type: ignore[arg-type]
        default = "" if parameter.default is inspect.Parameter.empty else f"={parameter.default!r}"
        prefix = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}.get(
            parameter.kind, ""
        )
        yield prefix + parameter.name + re.sub(r" at 0x[0-9a-f]+|<factory>|<.*>", "", default)


if __name__ == "__main__":
    print("\n".join(f"{name} {taken}" for name, taken in seams().items()))
