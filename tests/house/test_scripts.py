"""Every script starts from any folder, in a checkout that is not installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.commands import ROOT

OURS = re.compile(r"^ *(?:from|import) (?:megatron\.seq1f1b|benchmarks|tools|tests)\b", re.M)
ON_PATH = re.compile(r"^sys\.path\.insert\(0, (.+)\)$|^import pipeline$|^from pipeline import", re.M)
"""What puts the repository on the path, itself or first of all."""
MODULES = ("benchmarks/gpu_sections.py",)
"""Started by another script as `python -m`, from the root."""


def scripts() -> list[Path]:
    """What people start in a checkout; the examples of embedding want the package installed."""
    folders = ("benchmarks", "tools", "examples/data")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return sorted(path for path in [*ROOT.glob("*.py"), *files] if is_started(path))


def is_started(path: Path) -> bool:
    return 'if __name__ == "__main__"' in path.read_text() and str(path.relative_to(ROOT)) not in MODULES


@pytest.mark.parametrize("script", scripts(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_repository_is_on_the_path_before_it_is_imported(script: Path) -> None:
    text = script.read_text()
    ours, put = OURS.search(text), ON_PATH.search(text)
    if ours is None or script.parent == ROOT:
        return  # Python puts a script's own folder on the path
    assert put is not None and put.start() < ours.start()
    known = {"Path": Path, "str": str, "__file__": str(script), "ROOT": ROOT}
    assert put[1] is None or eval(put[1], known) == str(ROOT)


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
