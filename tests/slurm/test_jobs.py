"""exp.sh on a real SLURM of two nodes: it submits itself, survives a killed node and its own time limit."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, missing, running_cluster, wait_until

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "NUM_LAYERS": "4",
    "HIDDEN_SIZE": "64",
    "SEQ_LENGTH": "128",
    "GLOBAL_BATCH": "4",
    "SAMPLE_MEGABYTES": "2",
}
TWO_NODES = {"NODES": "2", "GPUS_PER_NODE": "2", "TIME_LIMIT": "20"}
START_SECONDS = 400.0
"""SLURM lets a job wait two minutes before it starts again."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running_cluster() as running:
        yield running


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository's files in a folder with spaces that nobody else may write or read."""
    folder = tmp_path_factory.mktemp("shared") / "a user's own folder"
    folder.mkdir(mode=0o700)
    for name in ("exp.sh", "pretrain_gpt.py", "setup.py", "requirements.txt"):
        shutil.copy(ROOT / name, folder)
    for name in ("tools", "megatron"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


class Job:
    """A run that exp.sh submitted."""

    def __init__(self, cluster: Cluster, checkout: Path, name: str, **variables: str) -> None:
        self.run_dir = checkout / "my runs" / name
        self._cluster = cluster
        environment = {**cluster.environment, **SMALL, **TWO_NODES, **variables}
        environment |= {"PYTHON": sys.executable, "RUN_DIR": f"my runs/{name}"}
        environment.pop("SLURM_JOB_ID", None)
        done = subprocess.run(
            ["bash", "exp.sh"], cwd=checkout, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        found = re.search(r"submitted job (\d+)", done.stdout)
        assert found is not None, done.stdout
        self.id = found[1]

    def output(self) -> str:
        log = self.run_dir / "slurm.log"
        return log.read_text() if log.exists() else ""

    def rows(self) -> list[dict[str, float]]:
        path = self.run_dir / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def wait_for_step(self, iteration: int) -> None:
        wait_until(
            lambda: any(row["iteration"] >= iteration for row in self.rows()) or self._has_ended(),
            what=f"step {iteration}",
            seconds=START_SECONDS,
        )
        assert any(row["iteration"] >= iteration for row in self.rows()), self._said()

    def wait_for_requeue(self) -> None:
        wait_until(
            lambda: self._cluster.restarts_of(self.id) > 0 or self._has_ended(),
            what="the job to go back into the queue",
            seconds=START_SECONDS,
        )
        assert self._cluster.restarts_of(self.id) == 1, self._said()

    def wait_for_end(self) -> None:
        wait_until(self._has_ended, what="the job to end", seconds=2 * START_SECONDS)
        assert self._cluster.state_of(self.id) == "COMPLETED", self._said()

    def _has_ended(self) -> bool:
        return self._cluster.state_of(self.id) in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")

    def _said(self) -> str:
        return f"{self.output()}\n{self._cluster.logs()}"


def test_two_nodes_train_together(cluster: Cluster, checkout: Path) -> None:
    job = Job(cluster, checkout, "two nodes", TRAIN_ITER="16")
    job.wait_for_end()
    losses = [row["lm_loss"] for row in job.rows()]
    assert len(losses) == 16
    assert losses[-1] < losses[0] - 0.3
    assert "2 x 2 processes" in job.output()
    assert "trained  16 steps" in job.output()
    logs = sorted(path.parent.name for path in job.run_dir.glob("logs/node*/*/attempt_0/*/stdout.log"))
    assert logs == ["0", "0", "1", "1"], "two processes on each of two nodes"
    print(job.output())


def test_a_job_with_a_killed_node_goes_back_into_the_queue_and_resumes(
    cluster: Cluster, checkout: Path
) -> None:
    job = Job(cluster, checkout, "killed", TRAIN_ITER="60", SAVE_INTERVAL="5")
    job.wait_for_step(12)
    killed = cluster.processes_on(1, job.id)
    assert len(killed) == 2
    for process in killed:
        process.kill()
    job.wait_for_requeue()
    job.wait_for_end()
    assert [row["iteration"] for row in job.rows()] == list(range(1, 61)), "every step once"
    assert "back into the queue" in job.output()
    steps = [int(step) for step in re.findall(r"step +(\d+)/60", job.output())]
    (resumed,) = [later for earlier, later in pairwise(steps) if later <= earlier]
    assert resumed > 5
    assert resumed % 5 == 1, "the step after a checkpoint"
    print(job.output())


def test_a_job_at_its_time_limit_saves_and_goes_back_into_the_queue(cluster: Cluster, checkout: Path) -> None:
    job = Job(cluster, checkout, "time limit", TRAIN_ITER="100000", TIME_LIMIT="4", SAVE_SECONDS="120")
    job.wait_for_requeue()
    stopped = json.loads((job.run_dir / "stopped.json").read_text())
    assert stopped["reason"] == "signal"
    assert stopped["requeue"] is True
    assert "the time limit is near" in job.output()
    wait_until(lambda: cluster.state_of(job.id) == "RUNNING", what="the second start", seconds=START_SECONDS)
    job.wait_for_step(stopped["iteration"] + 1)
    iterations = [int(row["iteration"]) for row in job.rows()]
    assert iterations == list(range(1, len(iterations) + 1)), "no step is lost or made twice"
    cluster.ask("scancel", job.id)
    print(job.output())


def test_a_sweep_is_one_job(cluster: Cluster, checkout: Path) -> None:
    job = Job(
        cluster, checkout, "sweep", TRAIN_ITER="2", SCHEDULE="1f1b seq1f1b", PP_SP="1 4", GPUS_PER_NODE="2"
    )
    job.wait_for_end()
    rows = list(csv.DictReader((job.run_dir / "results.csv").read_text().splitlines()))
    assert [row["status"] for row in rows] == ["ok", "skipped", "ok", "ok"], job.output()
    print(job.output())


def test_what_cannot_run_is_refused_before_submission(cluster: Cluster, checkout: Path) -> None:
    environment = {
        **cluster.environment,
        **SMALL,
        "NODES": "2",
        "GPUS_PER_NODE": "3",
        "PYTHON": sys.executable,
    }
    done = subprocess.run(
        ["bash", "exp.sh"], cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "NODES=2 x GPUS_PER_NODE=3 = 6 processes cannot hold" in done.stderr
    assert not cluster.ask("squeue", "--noheader", "--name", "seq1f1b", "--states", "PENDING")
