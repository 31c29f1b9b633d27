"""Scripts of this repository, started as people start them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def run_script(script: str | Path, *words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """What it printed and its status; options are those of `subprocess.run`."""
    command = [sys.executable, str(ROOT / script), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)
