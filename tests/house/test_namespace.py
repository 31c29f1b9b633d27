"""The package shares the `megatron` namespace with Megatron-Core, and costs nothing to import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run_python(code: str, *, python: Path | str = sys.executable, cwd: Path = ROOT) -> str:
    """Standard output of a fresh interpreter that sees nothing but its own packages and `cwd`."""
    completed = subprocess.run(
        [str(python), "-W", "error", "-c", code], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert completed.returncode == 0, completed.stderr
    return completed.stdout.strip()


def test_the_namespace_has_no_init() -> None:
    assert not (ROOT / "megatron" / "__init__.py").exists(), "it would hide PyPI's megatron.core"


def test_importing_the_package_imports_neither_torch_nor_megatron_core() -> None:
    code = "import sys, megatron.seq1f1b; print([m for m in sys.modules if m in ('torch', 'megatron.core')])"
    assert run_python(code) == "[]"


def test_planning_a_schedule_needs_no_torch() -> None:
    code = "import sys, megatron.seq1f1b.schedule, megatron.seq1f1b.partition; print('torch' in sys.modules)"
    assert run_python(code) == "False"
