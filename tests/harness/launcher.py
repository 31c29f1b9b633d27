"""The parent's side: start the ranks, collect their replies, end them all, tell what happened."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import connection, forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import ParamSpec, TypeVar, cast

from tests.harness.report import RankReport, RankState, failure_message, in_order_of_blame
from tests.harness.worker import STACK_SIGNAL, Assignment, Reply, work

P = ParamSpec("P")
R = TypeVar("R")

REPOSITORY = Path(__file__).resolve().parents[2]
PEERS_GRACE_SECONDS = 3.0
"""After one rank failed, how long the others may take to fail (or return) on their own."""
STACK_SECONDS = 1.0
"""How long a stuck rank gets for writing its stacks before it is killed."""

_context = multiprocessing.get_context("forkserver")


class DistributedError(Exception):
    """A rank raised, died, or did not finish. The message quotes every rank that failed.

    `reports` holds one entry per rank. Where the first rank to fail raised, its exception is the
    `__cause__`, so that a test can look at it.
    """

    def __init__(self, message: str, reports: list[RankReport]) -> None:
        super().__init__(message)
        self.reports = reports


@dataclass(kw_only=True)
class _Rank:
    assignment: Assignment
    process: ForkServerProcess
    replies: connection.Connection
    report: RankReport | None = None


def run_distributed(
    function: Callable[..., R],
    world_size: int,
    *args: object,
    timeout_seconds: float = 120.0,
) -> list[R]:
    """Calls `function(*args)` in `world_size` new processes that form one gloo group.

    Args:
        function: importable from its module by name; `torch.distributed` gives it its rank.
        world_size: number of processes.
        args: the same for each rank, pickled by value.
        timeout_seconds: from the start; also the timeout of each collective.

    Returns:
        What each rank returned, by rank, tensors included (copied).

    Raises:
        DistributedError: a rank raised, died or did not finish; no process outlives the call.
    """
    assert world_size >= 1, f"world_size {world_size} must be at least 1"
    payload = pickle.dumps((function, args, list(warnings.filters)))
    _start_fork_server()
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        assignments = [
            Assignment(
                rank=rank,
                world_size=world_size,
                folder=Path(folder),
                payload=payload,
                timeout_seconds=timeout_seconds,
            )
            for rank in range(world_size)
        ]
        with _started(assignments) as ranks:
            timed_out = _collect_replies(ranks, timeout_seconds)
            reports = [_final_report(rank) for rank in ranks]
    if all(report.state is RankState.RETURNED for report in reports):
        return [cast(R, report.value) for report in reports]
    limit = timeout_seconds if timed_out else None
    message = failure_message(function.__qualname__, reports, timed_out_after=limit)
    cause = in_order_of_blame(reports)[0].error
    raise DistributedError(message, reports) from cause


def fork_context() -> ForkServerContext:
    """The context whose processes start with torch and Megatron-Core imported."""
    _start_fork_server()
    return _context


def _start_fork_server() -> None:
    """Starts the server once; it keeps the environment of that moment, so that is set here."""
    settings = {
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])),
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        _context.set_forkserver_preload(["tests.harness.preload"])
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _started(assignments: list[Assignment]) -> Iterator[list[_Rank]]:
    """The running ranks; on the way out all are ended, whatever happened inside."""
    ranks: list[_Rank] = []
    try:
        for assignment in assignments:
            receiving, sending = _context.Pipe(duplex=False)
            process = _context.Process(target=work, args=(assignment, sending))
            process.start()
            sending.close()
            ranks.append(_Rank(assignment=assignment, process=process, replies=receiving))
        yield ranks
    finally:
        for rank in ranks:
            _end(rank)


def _end(rank: _Rank) -> None:
    assert rank.process.pid is not None
    for kill in (os.killpg, os.kill):  # the group does not exist until the rank has made it
        with suppress(ProcessLookupError, PermissionError):
            kill(rank.process.pid, signal.SIGKILL)
    rank.process.join()
    rank.replies.close()


def _collect_replies(ranks: list[_Rank], timeout_seconds: float) -> bool:
    """Fills in reports until all ranks replied, or one failed and the grace is over.

    Returns:
        Whether the time ran out.
    """
    deadline = time.monotonic() + timeout_seconds
    waiting = {rank.replies: rank for rank in ranks}
    has_failure = False
    while waiting:
        ready = connection.wait(list(waiting), timeout=deadline - time.monotonic())
        if not ready:
            break
        for replies in ready:
            rank = waiting.pop(cast(connection.Connection, replies))
            rank.report = _received_report(rank)
            if rank.report.state is not RankState.RETURNED and not has_failure:
                has_failure = True
                deadline = min(deadline, time.monotonic() + PEERS_GRACE_SECONDS)
    for rank in waiting.values():
        with suppress(ProcessLookupError):
            os.kill(cast(int, rank.process.pid), STACK_SIGNAL)
    if waiting:
        time.sleep(STACK_SECONDS)
    return bool(waiting) and not has_failure


def _received_report(rank: _Rank) -> RankReport:
    number = rank.assignment.rank
    try:
        reply = cast(Reply, pickle.loads(rank.replies.recv_bytes()))
    except EOFError:
        rank.process.join()
        return RankReport(rank=number, state=RankState.DIED, exit_code=rank.process.exitcode)
    if reply.raised_at is None:
        return RankReport(rank=number, state=RankState.RETURNED, value=reply.value)
    return RankReport(
        rank=number,
        state=RankState.RAISED,
        error=reply.error,
        traceback=reply.traceback,
        ended_at=reply.raised_at,
    )


def _final_report(rank: _Rank) -> RankReport:
    report = rank.report or RankReport(rank=rank.assignment.rank, state=RankState.STUCK)
    path = rank.assignment.output_path
    output = path.read_text(errors="replace") if path.exists() else ""
    return replace(report, output=output)
