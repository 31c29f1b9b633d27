"""Megatron-Core's distributed checkpoints, written by the process itself, now or beside its training.

Its writer (dist_checkpointing/strategies/filesystem_async.py, 0.16.1) forks workers for every save,
and the first time starts a manager process for their results (line 54). Both can outlive a run that
is killed and keep its sockets open, the manager takes seconds to start, and forking a process that
has threads can hang; the persistent worker of async_utils.py (line 419) needs a CUDA device. Here
its request for an asynchronous save is served by this process: the function that a worker runs is
called in turn for every file, in any thread.
"""

from __future__ import annotations

import inspect
import queue
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing import serialization
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.common import TorchCommonSaveStrategy

_Writer = filesystem_async.FileSystemWriterAsync
_WRITES_OF_RANK_0 = (
    (TorchCommonSaveStrategy, "save_common"),
    (_Writer, "finish"),
    (serialization, "save_config"),
)


class Save:
    """A checkpoint on its way to disk: planned, copied where training goes on, written, finished."""

    def __init__(self, state: dict[str, Any], folder: Path, **options: object) -> None:
        """Agree on who writes what; collective. Further options are `dist_checkpointing.save`'s."""
        filesystem_async._results_queue = queue.Queue()
        _Writer.write_preloaded_data_multiproc = staticmethod(_write_in_turn)
        with _failures_after_collectives():
            self._request = dist_checkpointing.save(state, str(folder), async_sharded_save=True, **options)
        self._arguments = list(self._request.async_fn_args)

    def copy(self) -> None:
        """Take the tensors out of the reach of training, into host memory."""
        if self._request.async_fn is None:
            return
        originals = self._arguments[1]
        self._preload()
        self._arguments[1] = [
            (path, key, (values, _copies(tensors, of)))
            for (path, key, (values, tensors)), (_, _, (_, of)) in zip(
                self._arguments[1], originals, strict=True
            )
        ]

    def write(self) -> list[Path]:
        """Write this process's files and flush them; needs no other process, nor the main thread.

        Raises:
            OSError: a file could not be written.
        """
        if self._request.async_fn is None:
            return []
        if self._arguments[1] is self._request.async_fn_args[1]:
            self._preload()
        self._request.async_fn(*self._arguments, **self._request.async_fn_kwargs)
        paths = [Path(path) for path, _, _ in self._arguments[1]]
        self._arguments.clear()
        return paths

    def finish(self) -> None:
        """Write what says where everything is; collective, after every process has written."""
        with _failures_after_collectives():
            for finalize in self._request.finalize_fns:
                finalize()

    def _preload(self) -> None:
        self._arguments[1] = self._request.preload_fn()


def load(state: dict[str, Any], folder: Path) -> dict[str, Any]:
    """`dist_checkpointing.load`."""
    loaded: dict[str, Any] = dist_checkpointing.load(state, str(folder))
    return loaded


def _copies(tensors: Sequence[tuple[object, Any]], originals: Sequence[tuple[object, Any]]) -> list[object]:
    """The tensors, those copied that were in host memory before and so are still the same."""
    return [
        (item, tensor.clone() if tensor.data_ptr() == original.data_ptr() else tensor)
        for (item, tensor), (_, original) in zip(tensors, originals, strict=True)
    ]


def _write_in_turn(
    transforms: Sequence[object],
    use_msc: bool,
    rank: int,
    write_buckets: Sequence[object],
    results: queue.Queue[object],
) -> None:
    """`write_preloaded_data_multiproc` without processes: by file its results, or the failure."""
    # Without the decorator that stops garbage collection, which is for forked processes.
    write = inspect.unwrap(_Writer.write_preloaded_data)
    written: dict[int, object] = {}
    for index, bucket in enumerate(write_buckets):
        result: queue.Queue[tuple[int, object]] = queue.Queue()
        count: queue.Queue[int] = queue.Queue()
        count.put(index)
        write(transforms, index, bucket, result, count, True, use_msc=use_msc)
        _, found = result.get_nowait()
        if isinstance(found, Exception):
            raise found
        written[index] = found
    results.put(written)


@contextmanager
def _failures_after_collectives() -> Iterator[None]:
    """Raise what rank 0 could not write once the collectives are over, in which its peers would wait."""
    failures: list[Exception] = []

    def deferring(write: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **keywords: object) -> object:
            try:
                return write(*arguments, **keywords)
            except Exception as error:
                failures.append(error)
                return None

        return call

    originals = [(owner, name, getattr(owner, name)) for owner, name in _WRITES_OF_RANK_0]
    for owner, name, write in originals:
        setattr(owner, name, deferring(write))
    try:
        yield
    finally:
        for owner, name, write in originals:
            setattr(owner, name, write)
    if failures:
        raise failures[0]
