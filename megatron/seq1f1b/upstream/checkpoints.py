"""Megatron-Core's distributed checkpoints without helper processes that outlive a killed run.

Its writer (dist_checkpointing/strategies/filesystem_async.py, line 54) starts a manager process the
first time it saves, to bring results from the process of an asynchronous save. It takes seconds to
start, and nobody ends it when its parent is killed. A synchronous save needs no more than a queue of
this process.
"""

from __future__ import annotations

import queue
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.strategies import filesystem_async


def save(state: dict[str, Any], folder: Path, **options: object) -> None:
    """`dist_checkpointing.save`, synchronous, in this process and its short-lived workers."""
    filesystem_async._results_queue = queue.Queue()
    with _known_warnings():
        dist_checkpointing.save(state, str(folder), **options)


def load(state: dict[str, Any], folder: Path) -> dict[str, Any]:
    """`dist_checkpointing.load`."""
    with _known_warnings():
        loaded: dict[str, Any] = dist_checkpointing.load(state, str(folder))
    return loaded


@contextmanager
def _known_warnings() -> Iterator[None]:
    """Megatron-Core calls what torch is about to replace: its own affair."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", UserWarning)
        yield
