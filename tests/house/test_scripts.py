"""Every script starts from any folder, in a checkout that is not installed."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.commands import ROOT

OURS = ("megatron.seq1f1b", "benchmarks", "tools", "tests")
MODULES = ("benchmarks/gpu_sections.py",)
"""Started by another script as `python -m`, from the root."""


def scripts() -> list[Path]:
    """What people start in a checkout; the examples of embedding want the package installed."""
    folders = ("benchmarks", "tools", "examples/data")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return sorted(path for path in [*ROOT.glob("*.py"), *files] if is_started(path))


def is_started(path: Path) -> bool:
    return 'if __name__ == "__main__"' in path.read_text() and str(path.relative_to(ROOT)) not in MODULES


def first_import_without_path(script: Path) -> str | None:
    """The first import of ours that runs before the repository is on the path; None if none does."""
    search_path = [script.parent]
    for name in imports_of(script, search_path):
        if name.startswith(OURS) and ROOT not in search_path:
            return name
    return None


def imports_of(path: Path, search_path: list[Path]) -> Iterator[str]:
    """What a file imports, in the order of running, its siblings' imports in their place.

    What a file puts on the path is added to `search_path` when its statement is reached. Imports
    inside functions come last.
    """
    known = {"__file__": str(path), "Path": Path, "str": str}
    tree = ast.parse(path.read_text())
    at_start = [node for node in tree.body if not isinstance(node, ast.FunctionDef | ast.ClassDef)]
    later = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    for node in (each for statement in [*at_start, *later] for each in ast.walk(statement)):
        text = ast.unparse(node)
        if text.startswith("ROOT = "):
            known["ROOT"] = eval(text.removeprefix("ROOT = "), known)
        elif isinstance(node, ast.Call) and text.startswith("sys.path.insert(0, "):
            search_path.append(Path(eval(ast.unparse(node.args[1]), known)))
        for name in imported_names(node):
            yield name
            sibling = path.parent / f"{name.partition('.')[0]}.py"
            if sibling.is_file() and sibling != path:
                yield from imports_of(sibling, search_path)


def imported_names(node: ast.AST) -> list[str]:
    """The modules that a statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.module else []


@pytest.mark.parametrize("script", scripts(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_repository_is_on_the_path_before_it_is_imported(script: Path) -> None:
    assert first_import_without_path(script) is None


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("from megatron.seq1f1b import chunk", "megatron.seq1f1b"),
        ("def main():\n    import tools.sweep", "tools.sweep"),
        (f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nimport tools.sweep", None),
        (f"import sys, tools.sweep\nsys.path.insert(0, {str(ROOT)!r})", "tools.sweep"),
        (f"import sys\nsys.path.insert(0, {str(ROOT / 'tools')!r})\nimport tools.sweep", "tools.sweep"),
        ("import beside\nimport tools.sweep", "tools.sweep"),
        ("import torch", None),
    ],
)
def test_what_comes_too_early_is_found(text: str, first: str | None, tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("import json")
    (tmp_path / "script.py").write_text(text)
    assert first_import_without_path(tmp_path / "script.py") == first


@pytest.mark.slow
@pytest.mark.parametrize("script", scripts(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_script_says_how_it_is_used(script: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, script, "--help"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "usage: " in done.stdout
    assert not list(tmp_path.iterdir()), "asking for help writes nothing"
