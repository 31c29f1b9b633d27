"""Runs pretrain_gpt.py's `main` in processes that can each be killed or stopped by itself.

They are forks of the harness's server, which has torch and Megatron-Core imported: a run of a few
steps takes a second or two rather than ten.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import psutil

from tests.harness.launcher import fork_context
from tests.harness.worker import die_with_parent, redirect_output
from tests.training.runs import rows_of

FLAGS = (
    "--num-layers 2 --hidden-size 32 --num-attention-heads 2 --seq-length 32 --micro-batch-size 1 "
    "--global-batch-size 2 --lr 1e-2 --mock-data --tokenizer-type NullTokenizer --vocab-size 127 "
    "--pipeline-model-parallel-size 2 --pipe-sp-splits 2 --num-workers 0 --eval-iters 0"
)


def run_rank(arguments: list[str], folder: Path, log: Path, environment: dict[str, str]) -> None:
    """One process of a run, in a session of its own."""
    os.setsid()
    die_with_parent()
    redirect_output(log)
    os.chdir(folder)
    os.environ.update(environment)
    import torch

    import pretrain_gpt

    torch.set_num_threads(1)
    sys.exit(pretrain_gpt.main(arguments))


class Job:
    """The processes of one run."""

    def __init__(self, flags: str, folder: Path, *, world_size: int = 2) -> None:
        context, port = fork_context(), free_port()
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world_size)}
        self._logs = [folder / f"rank{rank}.log" for rank in range(world_size)]
        self.processes: list[ForkServerProcess] = []
        for rank, log in enumerate(self._logs):
            log.unlink(missing_ok=True)
            environment = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            arguments = f"{FLAGS} {flags}".split()
            process = context.Process(target=run_rank, args=(arguments, folder, log, environment))
            process.start()
            self.processes.append(process)

    def wait(self, *, timeout_seconds: float = 120.0) -> list[int]:
        """The exit status of every process, negative where a signal ended it."""
        deadline = time.monotonic() + timeout_seconds
        for process in self.processes:
            process.join(max(0.1, deadline - time.monotonic()))
            assert process.exitcode is not None, f"a process goes on\n{self.output()}"
        return [int(str(process.exitcode)) for process in self.processes]

    def is_running(self) -> bool:
        """Whether any process is."""
        return len(connection.wait([process.sentinel for process in self.processes], 0)) < len(self.processes)

    def send(self, number: int, *ranks: int) -> None:
        """A signal to some processes, not to what they started."""
        for rank in ranks:
            os.kill(int(str(self.processes[rank].pid)), number)

    def output(self) -> str:
        """What all processes printed."""
        return "\n".join(log.read_text() for log in self._logs if log.exists())

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
            for kill in (os.killpg, os.kill):  # the group does not exist until the process has made it
                with suppress(ProcessLookupError, PermissionError):
                    kill(int(str(process.pid)), signal.SIGKILL)
            process.join()


def wait_until(condition: Callable[[], bool], *, running: Job) -> None:
    """Until a condition holds; a job that ends before is a failure."""
    while not condition():
        assert running.is_running() or condition(), running.output()
        time.sleep(0.002)


def wait_for_step(run_dir: Path, iteration: int, *, running: Job) -> None:
    """Until metrics.jsonl has the row of a step."""
    file = run_dir / "metrics.jsonl"
    wait_until(lambda: file.exists() and len(rows_of(run_dir)) >= iteration, running=running)


def free_port() -> int:
    """A port that the system has chosen."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
