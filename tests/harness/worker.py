"""The child's side: join the group, run the function, say how it went, leave nothing behind."""

from __future__ import annotations

import faulthandler
import os
import pickle
import signal
import socket
import sys
import threading
import time
import traceback
import warnings
from dataclasses import dataclass, replace
from datetime import timedelta
from multiprocessing import connection, parent_process
from pathlib import Path

STACK_SIGNAL = signal.SIGUSR1
"""A rank that receives it writes the stack of each of its threads to its output."""


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What one rank is to do. `payload` is the pickled (function, arguments, warning filters)."""

    rank: int
    world_size: int
    folder: Path
    payload: bytes
    timeout_seconds: float

    @property
    def output_path(self) -> Path:
        """The file that collects what the rank prints."""
        return self.folder / f"rank{self.rank}.log"


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What one rank sends when its function is over; `raised_at` (monotonic clock) if it raised."""

    value: object = None
    error: BaseException | None = None
    traceback: str = ""
    raised_at: float | None = None


def work(assignment: Assignment, replies: connection.Connection) -> None:
    """Runs one rank from start to end; sends one pickled `Reply`."""
    os.setsid()  # the rank and all it starts form one group, which the launcher can end as one
    die_with_parent()
    redirect_output(assignment.output_path)
    faulthandler.register(STACK_SIGNAL, all_threads=True)
    try:
        reply = _pickled(Reply(value=_run_function(assignment)))
    except BaseException as error:
        raised_at = time.monotonic()
        reply = _pickled(Reply(error=error, traceback=traceback.format_exc(), raised_at=raised_at))
    sys.stdout.flush()
    sys.stderr.flush()
    replies.send_bytes(reply)
    replies.close()


def _run_function(assignment: Assignment) -> object:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    _set_launcher_variables(assignment)
    function, arguments, warning_filters = pickle.loads(assignment.payload)
    with warnings.catch_warnings():
        warnings.filters = warning_filters
        dist.init_process_group(
            "gloo",
            store=dist.FileStore(str(assignment.folder / "rendezvous"), assignment.world_size),
            rank=assignment.rank,
            world_size=assignment.world_size,
            timeout=timedelta(seconds=assignment.timeout_seconds),
        )
        value: object = function(*arguments)
        _leave_groups()
    return value


def _leave_groups() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.barrier()  # a rank that leaves early would break its neighbours' last operation
    parallel_state = sys.modules.get("megatron.core.parallel_state")
    if parallel_state is not None:
        parallel_state.destroy_model_parallel()
    if dist.is_initialized():
        dist.destroy_process_group()


def _set_launcher_variables(assignment: Assignment) -> None:
    """The variables that torchrun would set, and the loopback interface for gloo."""
    rank, world_size = str(assignment.rank), str(assignment.world_size)
    os.environ.update(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=world_size, LOCAL_WORLD_SIZE=world_size)
    if any(name == "lo" for _, name in socket.if_nameindex()):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")


def redirect_output(path: Path) -> None:
    """Sends file descriptors 1 and 2 to one file, so that native code's output is kept too."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    os.close(descriptor)


def die_with_parent() -> None:
    """Ends this rank's whole process group when the launching process is gone, however it went."""
    launcher = parent_process()
    assert launcher is not None

    def watch() -> None:
        connection.wait([launcher.sentinel])
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, name="watch-launcher", daemon=True).start()


def _pickled(reply: Reply) -> bytes:
    """Pickles by value: tensors are copied, not shared with a process that is about to end."""
    try:
        sent = pickle.dumps(reply)
        pickle.loads(sent)  # some exceptions pickle but cannot be rebuilt
        return sent
    except Exception as unpicklable:
        if reply.raised_at is not None:
            return pickle.dumps(replace(reply, error=None))
        problem = TypeError(f"the value that the rank returned cannot be sent: {unpicklable}")
        return pickle.dumps(Reply(error=problem, traceback=str(problem), raised_at=time.monotonic()))
