"""docs/cluster.md: every command can be typed as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.commands import ROOT, commands_of

PAGE = "docs/cluster.md"
RUN_ELSEWHERE = {
    "bash tests/slurm/run.sh": "needs root and a SLURM: its tests are tests/slurm",
    "bash examples/launch/cpu_tutorial.sh": "tests/launch/test_examples.py",
    "python tools/sweep_report.py runs/schedules --into docs/cluster.md": "tests/launch/test_sweep.py",
}
TYPED = [command for command in commands_of(PAGE) if command not in RUN_ELSEWHERE]


@pytest.mark.parametrize("command", TYPED)
def test_a_command_can_be_typed(command: str, tmp_path: Path) -> None:
    """Those of exp.sh without starting anything."""
    (tmp_path / "hosts.txt").write_text("node1 slots=8\nnode2 slots=8\n")
    for name in ("exp.sh", "tools", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    environment = {**os.environ, "PYTHON": sys.executable, "DRY_RUN": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    wanted = "--num-layers" if command.startswith("python") else "most on stage"
    assert wanted in done.stdout


def test_every_variable_of_the_page_is_one_that_the_launcher_reads() -> None:
    text = (ROOT / PAGE).read_text()
    sources = [ROOT / "exp.sh", *(ROOT / "tools" / "launch").glob("*.sh"), ROOT / "tools" / "sweep.py"]
    code = "".join(path.read_text() for path in sources)
    named = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)+)`", text)) - {"LOCAL_RANK"}
    assert named
    assert not {name for name in named if not re.search(rf"\b{name}\b", code)}


def test_what_is_run_elsewhere_is_on_the_page() -> None:
    assert set(RUN_ELSEWHERE) <= set(commands_of(PAGE))
