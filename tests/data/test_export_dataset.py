"""examples/data/export_dataset.py: local datasets become JSON lines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "examples" / "data" / "export_dataset.py"
RECORDS = [{"content": "naïve", "size": 1}, {"content": "", "size": 2}]


def export(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOL), *words, "--output", "out.jsonl"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("kind", ["parquet", "folder of parquet", "saved", "saved with splits"])
def test_local_dataset(tmp_path: Path, kind: str) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the package datasets")
    data = datasets.Dataset.from_list(RECORDS)
    (tmp_path / "in").mkdir()
    if "parquet" in kind:
        data.to_parquet(str(tmp_path / "in" / "part.parquet"))
    else:
        (data if kind == "saved" else datasets.DatasetDict(train=data)).save_to_disk(str(tmp_path / "in"))
    source = "in/part.parquet" if kind == "parquet" else "in"
    run = export(tmp_path, source, "--columns", "content")
    assert run.returncode == 0, run.stderr
    lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [{"content": "naïve"}, {"content": ""}]
    assert "2 records" in run.stdout
    assert (
        export(tmp_path, "in" if kind != "parquet" else "in/part.parquet", "--columns", "text").returncode
        == 1
    )


def test_without_the_library_its_extra_is_named(tmp_path: Path) -> None:
    (tmp_path / "datasets.py").write_text("raise ImportError")
    code = "import runpy, sys; sys.path.insert(0, '.'); sys.argv = ['x', 'in', '--output', 'o']; "
    code += f"runpy.run_path({str(TOOL)!r}, run_name='__main__')"
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "pip install .[data]" in run.stderr
    assert "Traceback" not in run.stderr
