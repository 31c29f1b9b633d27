"""One function for many arguments, in copies of this process: results in order, errors raised here."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")

_PR_SET_PDEATHSIG = 1
"""Of Linux's prctl: the signal that a process gets when its parent ends."""

_adopted: Callable[[Any], Any] | None = None


def map_in_forks(function: Callable[[int], Result], arguments: Sequence[int]) -> list[Result]:
    """`[function(argument) for argument in arguments]`, one process per processor at most.

    Forks know what this process knows, so `function` may be a closure; it must not use a device.
    """
    workers = min(len(arguments), len(os.sched_getaffinity(0)))
    if workers < 2:
        return [function(argument) for argument in arguments]
    context = multiprocessing.get_context("fork")
    with warnings.catch_warnings():
        # Python 3.12 warns of threads; torch's and numpy's are idle, and no fork waits for them.
        warnings.filterwarnings("ignore", ".* is multi-threaded, use of fork", DeprecationWarning)
        with ProcessPoolExecutor(workers, context, initializer=_adopt, initargs=(function,)) as pool:
            return list(pool.map(_run, arguments))


def _adopt(function: Callable[[Any], Any]) -> None:
    global _adopted
    # One whose parent was killed would wait for work for ever.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _adopted = function


def _run(argument: int) -> Any:
    assert _adopted is not None, "every fork is given its function"
    return _adopted(argument)
