"""Fixtures of the tools' tests."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from tests.cli.preprocessing import TOOL, Run


@pytest.fixture
def preprocess(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs tools/preprocess_data.py in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run_tool(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", [str(TOOL), *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(TOOL), run_name="__main__")
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out + printed.err

    return run_tool
