"""Starts pretrain_gpt.py's processes without torchrun, so that each can be killed by itself."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.training.runs import rows_of

ROOT = Path(__file__).resolve().parents[2]
FLAGS = (
    "--num-layers 2 --hidden-size 32 --num-attention-heads 2 --seq-length 32 --micro-batch-size 1 "
    "--global-batch-size 2 --lr 1e-2 --mock-data --tokenizer-type NullTokenizer --vocab-size 127 "
    "--pipeline-model-parallel-size 2 --pipe-sp-splits 2 --num-workers 0 --eval-iters 0 "
    "--distributed-timeout-minutes 1"
)


class Job:
    """Processes of one run, each in a process group of its own."""

    def __init__(self, flags: str, folder: Path, *, world_size: int = 2) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(world_size),
        }
        self._logs = [folder / f"rank{rank}.log" for rank in range(world_size)]
        self.processes = []
        for rank, log in enumerate(self._logs):
            with log.open("w") as stream:
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, str(ROOT / "pretrain_gpt.py"), *f"{FLAGS} {flags}".split()],
                        cwd=folder,
                        env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                        stdout=stream,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )

    def wait(self, *, timeout_seconds: float = 120.0) -> list[int]:
        """The exit status of every process."""
        deadline = time.monotonic() + timeout_seconds
        return [process.wait(max(0.1, deadline - time.monotonic())) for process in self.processes]

    def kill(self, *ranks: int) -> None:
        """SIGKILL some processes, not what they started."""
        for rank in ranks:
            self.processes[rank].kill()

    def output(self) -> str:
        """What all processes printed."""
        return "\n".join(log.read_text() for log in self._logs)

    def left_over(self) -> list[psutil.Process]:
        """Processes of this run's sessions that are still there."""
        sessions = {process.pid for process in self.processes}
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, ProcessLookupError):
                if os.getsid(process.pid) in sessions and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found


@contextmanager
def job(flags: str, folder: Path, *, world_size: int = 2) -> Iterator[Job]:
    """A running job, of which nothing is left at the end."""
    running = Job(flags, folder, world_size=world_size)
    try:
        yield running
    finally:
        for process in running.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for_step(run_dir: Path, iteration: int, *, running: Job) -> None:
    """Until metrics.jsonl has the row of a step."""
    while not (run_dir / "metrics.jsonl").exists() or len(rows_of(run_dir)) < iteration:
        assert any(process.poll() is None for process in running.processes), running.output()
        time.sleep(0.02)
