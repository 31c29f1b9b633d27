"""Commands of a document: found in its bash blocks, and run as a reader would type them."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

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
