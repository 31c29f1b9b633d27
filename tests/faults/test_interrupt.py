"""Ctrl-C ends a run with a line, not with a traceback from every process."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults.jobs import FLAGS
from tests.training.runs import rows_of

SCRIPT = Path(__file__).resolve().parents[2] / "pretrain_gpt.py"


@pytest.mark.slow
def test_an_interrupt_is_said_in_a_line(tmp_path: Path) -> None:
    flags = FLAGS.replace("--pipeline-model-parallel-size 2", "").split()
    run = subprocess.Popen(
        [sys.executable, str(SCRIPT), *flags, "--train-iters", "100000", "--run-dir", str(tmp_path / "run")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts what it puts in the background with Ctrl-C ignored, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        while not (tmp_path / "run" / "metrics.jsonl").exists() or not rows_of(tmp_path / "run"):
            assert run.poll() is None
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        _, errors = run.communicate(timeout=120)
    finally:
        run.kill()
    assert run.returncode == 130
    assert errors.splitlines() == [
        "pretrain_gpt.py: interrupted; with --exit-signal-handler a run saves and ends after the step instead"
    ]
