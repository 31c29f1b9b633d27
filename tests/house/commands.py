"""Commands of a document: found in its bash blocks, run as a reader would type them, and their flags."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

from megatron.seq1f1b.config.parser import make_parser

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(path.name for path in (ROOT / "docs").glob("*.md") if path.name != "flags.md")
DOCUMENTS = ("README.md", *(f"docs/{name}" for name in PAGES))
"""What people write; docs/flags.md also names flags that there are not."""


def commands_of(document: str) -> list[str]:
    """The commands in the bash blocks of a document, continuation lines joined."""
    blocks = re.findall(r"^```bash\n(.*?)^```", (ROOT / document).read_text(), flags=re.M | re.S)
    joined = [re.sub(r"\\\n\s*", "", block) for block in blocks]
    return [line for block in joined for line in block.splitlines() if line.strip()]


def workspace(folder: Path) -> Path:
    """A folder that looks like the repository's root, where commands may write."""
    for name in ("pretrain_gpt.py", "tools", "megatron", "tests", "exp.sh"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def run_command(command: str, *, cwd: Path, more: str = "", timeout_seconds: float = 300) -> str:
    """What a command printed, with this Python as `python` and `torchrun`; `more` is appended.

    Fails with all that it printed when it does not exit with 0.
    """
    program, *arguments = shlex.split(f"{command} {more}")
    launchers = {
        "python": [sys.executable],
        "torchrun": [sys.executable, "-m", "torch.distributed.run"],
    }
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if Path("/sys/class/net/lo").exists():
        environment["GLOO_SOCKET_IFNAME"] = "lo"
    completed = subprocess.run(
        [*launchers.get(program, [program]), *arguments],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_seconds,
        check=False,
    )
    assert completed.returncode == 0, f"{command} {more}\n{completed.stdout}"
    return completed.stdout


@cache
def flags_of(script: str) -> frozenset[str]:
    """The flags that a script adds to its parser, and those of what it imports to read its command line.

    Read from the source: to start thirty scripts, most of which import torch, takes a minute.
    tests/house/test_scripts.py starts each.
    """
    path = ROOT / script
    tree = ast.parse(path.read_text())
    flags = {
        str(constant.value)
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "add_argument"
        for constant in ast.walk(call)
        if isinstance(constant, ast.Constant) and str(constant.value).startswith("--")
    }
    imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    if "megatron.seq1f1b.config" in imported:
        flags |= {flag for action in make_parser()._actions for flag in action.option_strings}
    for sibling in {path.parent / f"{name}.py" for name in imported} - {path}:
        if sibling.is_file():
            flags |= flags_of(sibling.relative_to(ROOT).as_posix())
    return frozenset(flags)
