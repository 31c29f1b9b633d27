"""Megatron-Core's distributed checkpoints, written by the process itself.

Its writer (dist_checkpointing/strategies/filesystem_async.py, 0.16.1) forks workers for every save,
and the first time starts a manager process for their results (line 54). Both can outlive a run that
is killed, the manager takes seconds to start, and forking a process that has threads can hang. Here
the same function that a worker runs is called in turn for every file.
"""

from __future__ import annotations

import queue
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.strategies import filesystem_async

_Writer = filesystem_async.FileSystemWriterAsync


def save(state: dict[str, Any], folder: Path, **options: object) -> None:
    """`dist_checkpointing.save`, in this process alone."""
    filesystem_async._results_queue = queue.Queue()
    _Writer.write_preloaded_data_multiproc = staticmethod(_write_in_turn)
    with _known_warnings():
        dist_checkpointing.save(state, str(folder), **options)


def load(state: dict[str, Any], folder: Path) -> dict[str, Any]:
    """`dist_checkpointing.load`."""
    with _known_warnings():
        loaded: dict[str, Any] = dist_checkpointing.load(state, str(folder))
    return loaded


def _write_in_turn(
    transforms: Sequence[object],
    use_msc: bool,
    rank: int,
    write_buckets: Sequence[object],
    results: queue.Queue[object],
) -> None:
    """`write_preloaded_data_multiproc` without processes: by file its results, or the failure."""
    written: dict[int, object] = {}
    for index, bucket in enumerate(write_buckets):
        result: queue.Queue[tuple[int, object]] = queue.Queue()
        count: queue.Queue[int] = queue.Queue()
        count.put(index)
        _Writer.write_preloaded_data(transforms, index, bucket, result, count, True, use_msc=use_msc)
        _, found = result.get_nowait()
        if isinstance(found, Exception):
            results.put(found)
            return
        written[index] = found
    results.put(written)


@contextmanager
def _known_warnings() -> Iterator[None]:
    """Megatron-Core calls what torch is about to replace: its own affair."""
    with warnings.catch_warnings():
        for category in (FutureWarning, DeprecationWarning, UserWarning):
            warnings.simplefilter("ignore", category)
        yield
