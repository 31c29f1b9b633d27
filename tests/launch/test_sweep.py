"""Sweeps: what runs, what is skipped, what is recorded of runs that fail."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tools.sweep import combinations, why_meaningless
from tools.sweep_report import Result, insert, write_report

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"NUM_LAYERS": "4", "HIDDEN_SIZE": "64", "SEQ_LENGTH": "128", "GLOBAL_BATCH": "4", "TRAIN_ITER": "2"}


def exp(folder: Path, *flags: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable, **SMALL, **variables}
    environment |= {"SAMPLE_DIR": str(folder / "sample"), "SAMPLE_MEGABYTES": "2"}
    environment["RUN_DIR"] = str(folder / "a sweep")
    return subprocess.run(
        ["bash", str(ROOT / "exp.sh"), *flags],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )


def test_every_combination_once_and_paths_are_divided_by_commas() -> None:
    found = list(combinations({"PP_SP": "1 4", "DATA_PATH": "/my data/a,/my data/b"}))
    assert found == [
        {"PP_SP": "1", "DATA_PATH": "/my data/a"},
        {"PP_SP": "1", "DATA_PATH": "/my data/b"},
        {"PP_SP": "4", "DATA_PATH": "/my data/a"},
        {"PP_SP": "4", "DATA_PATH": "/my data/b"},
    ]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"SCHEDULE": "1f1b", "PP_SP": "4"}, "cannot take 4 chunks"),
        ({"SCHEDULE": "interleaved", "PP_SP": "2"}, "cannot take 2 chunks"),
        ({"SCHEDULE": "seq1f1b", "VPP_SIZE": "2"}, "cannot take 2 virtual stages"),
        ({"SCHEDULE": "seq1f1b", "PP_SP": "4"}, ""),
        ({"SCHEDULE": "1f1b"}, ""),
        ({"SCHEDULE": "plan.CSV", "PP_SP": "4"}, ""),
    ],
)
def test_combinations_that_mean_nothing_are_known(settings: dict[str, str], reason: str) -> None:
    assert reason in why_meaningless(settings, [])
    assert bool(reason) == bool(why_meaningless(settings, []))


def test_one_chunk_is_not_run_once_per_way_of_cutting() -> None:
    first = {"PP_SP": "1", "PP_SP_STR": "average"}
    earlier = [Result(settings=first, folder="", status="ok")]
    assert why_meaningless(first, []) == ""
    assert "one chunk is not cut" in why_meaningless({**first, "PP_SP_STR": "uniform_comp"}, earlier)


def test_the_report_has_every_run_and_why_it_failed(tmp_path: Path) -> None:
    numbers = {"tokens_per_second": 1000.0, "tflops_per_device": 0.5, "step_seconds": 1.0, "last_loss": 7.0}
    results = [
        Result(
            settings={"SCHEDULE": "seq1f1b", "PP_SP": "4", "DATA_PATH": "/somewhere"},
            folder="001",
            status="ok",
            peak_memory_bytes=[3 << 20, 2 << 20],
            predicted_bubble=0.25,
            **numbers,
        ),
        Result(
            settings={"SCHEDULE": "seq1f1b", "PP_SP": "8", "DATA_PATH": "/somewhere"},
            folder="002",
            status="out of memory",
            reason="CUDA out of memory, <much>",
        ),
    ]
    write_report(tmp_path, results, changing=["PP_SP"], flags=["--swiglu"])
    rows = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    assert [row["status"] for row in rows] == ["ok", "out of memory"]
    assert rows[0]["peak_memory_bytes"] == "3145728;2097152"
    text = (tmp_path / "results.md").read_text()
    assert "| 4 | 1,000 | 0.5 | 3, 2 | 25.0% |  | 7.0000 |" in text
    assert "- 8: out of memory: CUDA out of memory, <much>" in text
    assert "SCHEDULE=seq1f1b --swiglu" in text
    assert "/somewhere" not in text
    root = ElementTree.parse(tmp_path / "results.svg").getroot()
    assert "8: out of memory" in "".join(root.itertext())
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- sweep -->\nold\n<!-- end of sweep -->\nafter\n")
    insert(tmp_path, page)
    assert page.read_text() == f"before\n<!-- sweep -->\n{text}<!-- end of sweep -->\nafter\n"


def test_a_dry_run_of_a_sweep_shows_the_commands(tmp_path: Path) -> None:
    done = exp(tmp_path, DRY_RUN="1", SCHEDULE="1f1b seq1f1b", PP_SP="4")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped: schedule 1f1b runs whole sequences" in done.stdout
    assert done.stdout.count("torchrun --nproc_per_node 4") == 1
    assert not (tmp_path / "a sweep").exists()


@pytest.mark.slow
def test_a_sweep_records_what_failed_and_goes_on(tmp_path: Path) -> None:
    lists = {"SCHEDULE": "1f1b seq1f1b", "PP_SP": "4", "SEQ_LENGTH": "128 2", "LR": "1e-3 1e30"}
    done = exp(tmp_path, **lists)
    rows = list(csv.DictReader((tmp_path / "a sweep" / "results.csv").read_text().splitlines()))
    found = {(row["SCHEDULE"], row["SEQ_LENGTH"], row["LR"]): row for row in rows}
    assert len(rows) == 8, done.stdout + done.stderr
    assert done.returncode == 1
    assert found["1f1b", "128", "1e-3"]["status"] == "skipped"
    assert found["seq1f1b", "128", "1e-3"]["status"] == "ok"
    assert found["seq1f1b", "128", "1e30"]["status"] == "crashed"
    assert "iteration 2: the gradient norm is nan" in found["seq1f1b", "128", "1e30"]["reason"]
    assert found["seq1f1b", "2", "1e-3"]["status"] == "refused"
    assert "--pipe-sp-splits 4" in found["seq1f1b", "2", "1e-3"]["reason"]
    again = exp(tmp_path, **lists)
    assert again.stdout.count("tokens/s,") == done.stdout.count("tokens/s,"), "kept, not made again"


@pytest.mark.slow
def test_a_run_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    done = exp(tmp_path, TRAIN_ITER="1000000 2", RUN_MINUTES="1")
    rows = list(csv.DictReader((tmp_path / "a sweep" / "results.csv").read_text().splitlines()))
    assert [row["status"] for row in rows] == ["timed out", "ok"], done.stdout + done.stderr
    assert "not done after RUN_MINUTES=1" in rows[0]["reason"]
