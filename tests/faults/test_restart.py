"""torchrun starts a job again whose process died; the run goes on from its checkpoint by itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.faults.jobs import FLAGS
from tests.training.runs import losses_of, rows_of

ROOT = Path(__file__).resolve().parents[2]
STEPS = 60
RUN = "--run-dir run"
SCRIPT = [str(ROOT / "pretrain_gpt.py"), *f"{FLAGS} --train-iters {STEPS}".split()]


def torchrun(*flags: str, folder: Path) -> subprocess.Popen[str]:
    """A started launcher."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *flags]
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_torchrun_resumes_a_killed_run_by_itself(tmp_path: Path) -> None:
    straight = torchrun(*SCRIPT, "--run-dir", "straight", folder=tmp_path)
    assert straight.communicate(timeout=300) and straight.returncode == 0
    saving = f"{RUN} --save save --load save --save-interval 5 --keep-latest 2".split()
    launcher = torchrun("--max-restarts", "1", *SCRIPT, *saving, folder=tmp_path)
    try:
        metrics = tmp_path / "run" / "metrics.jsonl"
        while not metrics.exists() or len(rows_of(metrics.parent)) < 12:
            assert launcher.poll() is None
            time.sleep(0.005)
        workers = psutil.Process(launcher.pid).children()
        os.kill(workers[-1].pid, signal.SIGKILL)
        output, _ = launcher.communicate(timeout=300)
    finally:
        launcher.kill()
        assert launcher.stdout is not None
        launcher.stdout.close()
    assert launcher.returncode == 0, output
    assert f"trained {STEPS} steps" not in output, "the second start began where a checkpoint was"
    assert "loaded save/iter_" in output, output
    assert losses_of(tmp_path / "run") == losses_of(tmp_path / "straight")
    assert not psutil.pid_exists(workers[0].pid)
