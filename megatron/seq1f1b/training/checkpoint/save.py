"""Saves checkpoints: every process its shards, then one rename that makes the whole visible."""

from __future__ import annotations

import platform
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from megatron.seq1f1b.errors import SaveError
from megatron.seq1f1b.training.build import Trained
from megatron.seq1f1b.training.checkpoint import folder as folders
from megatron.seq1f1b.training.checkpoint.compatibility import layout_of, model_of, optimizer_of
from megatron.seq1f1b.training.checkpoint.manifest import (
    FORMAT,
    Manifest,
    checksum_of,
    file_sizes,
    write_manifest,
)
from megatron.seq1f1b.training.checkpoint.state import METADATA, sharded_state
from megatron.seq1f1b.training.console import say
from megatron.seq1f1b.training.prepare import Run
from megatron.seq1f1b.upstream import checkpoints

Result = TypeVar("Result")


class Saver:
    """Saves the checkpoints of a run, at once or beside its training (`--async-save`).

    At most one is on its way. It is visible once every process has written its part, and until then
    the one before it is the latest. Every method is collective.
    """

    def __init__(self, run: Run, trained: Trained, root: Path) -> None:
        self._run = run
        self._trained = trained
        self._root = root
        self._pending: Pending | None = None

    def save(self, iteration: int, *, is_last: bool) -> None:
        """Save a step; with `--async-save`, the last one apart, return when its values are copied.

        Raises:
            SaveError: on every process where one of them could not write.
        """
        self.finish()
        started_at = time.perf_counter()
        pending = begin(self._run, self._trained, self._root, iteration=iteration)
        if self._run.config.checkpoint.async_save and not is_last:
            pending.start()
            self._pending = pending
            seconds = time.perf_counter() - started_at
            say(f"saving step {iteration} beside training, which waited {seconds:.2f} s for it")
        else:
            pending.finish()
            say(f"saved step {iteration} to {self._root} in {time.perf_counter() - started_at:.2f} s")

    def poll(self) -> None:
        """Make a save visible that every process has written by now."""
        if self._pending is not None and self._pending.is_written():
            self.finish()

    def finish(self) -> None:
        """Wait for a save that is on its way."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.finish()
            say(f"saved step {pending.iteration} to {self._root}")


class Pending:
    """A checkpoint whose values are known and not all on disk."""

    def __init__(self, run: Run, partial: Path, *, iteration: int, writing: checkpoints.Save) -> None:
        self.iteration = iteration
        self._run = run
        self._partial = partial
        self._writing = writing
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None
        self._checksums: dict[str, str] = {}
        """Of the files that this process wrote, then of all."""

    def start(self) -> None:
        """Copy the values, and write them while training goes on."""
        _together(self._writing.copy, self._partial, what="copy")
        # A thread, not a process: nothing of it can outlive the run, or keep its sockets open.
        self._thread = threading.Thread(target=self._write, name=f"save-{self.iteration}")
        self._thread.start()

    def is_written(self) -> bool:
        """Whether every process has written its part; equal everywhere."""
        assert self._thread is not None
        is_done = torch.tensor(int(not self._thread.is_alive()), device=torch.cuda.current_device())
        dist.all_reduce(is_done, op=dist.ReduceOp.MIN)
        return bool(is_done)

    def finish(self) -> None:
        """Write what is left to write, and make the checkpoint visible."""
        if self._thread is None:
            self._write()
        else:
            self._thread.join()
        for checksums in _together(self._written, self._partial, what="write"):
            self._checksums |= checksums
        _together(self._writing.finish, self._partial, what="finish")
        _on_rank_0(self._publish, self._partial, what="publish")

    def _write(self) -> None:
        try:
            self._checksums = {path.name: checksum_of(path) for path in self._writing.write()}
        except Exception as error:
            self._failure = error

    def _written(self) -> dict[str, str]:
        if self._failure is not None:
            raise self._failure
        return self._checksums

    def _publish(self) -> None:
        files = file_sizes(self._partial)
        # What describes the others was written by this process just now.
        checksums = {name: self._checksums.get(name) or checksum_of(self._partial / name) for name in files}
        manifest = _manifest(self._run, self.iteration, files, checksums)
        write_manifest(self._partial, manifest)
        folders.publish(self._partial, self.iteration)
        keep = self._run.config.checkpoint.keep_latest
        if keep is not None:
            folders.discard_oldest(self._partial.parent, latest=self.iteration, keep=keep)


def begin(run: Run, trained: Trained, root: Path, *, iteration: int) -> Pending:
    """Gather the values of a step and agree on who writes what; collective."""
    options = run.config.checkpoint
    partial = folders.partial_of(root, iteration)
    _on_rank_0(lambda: folders.begin(root, iteration), partial, what="begin")
    if run.config.parallel.overlap_param_gather:
        # The parameters of the last update are gathered by the next forward, which is yet to come.
        for part in trained.parts:
            part.start_param_sync(force_sync=True)
    state = sharded_state(
        trained,
        has_optimizer=not options.no_save_optim,
        has_rng=not options.no_save_rng,
        is_loading=False,
    )
    writing: list[checkpoints.Save] = []
    _together(lambda: writing.append(_plan(state, partial)), partial, what="begin to write")
    return Pending(run, partial, iteration=iteration, writing=writing[0])


def _plan(state: dict[str, Any], partial: Path) -> checkpoints.Save:
    return checkpoints.Save(
        state,
        partial,
        preprocess_common_before_consistancy_check=_comparable,
        content_metadata=dict(METADATA),
    )


def _comparable(common: dict[str, Any]) -> dict[str, Any]:
    """The part of the common state that is equal on every process: parameters are numbered by rank."""
    return {name: value for name, value in common.items() if name != "optimizer"}


def _manifest(run: Run, iteration: int, files: dict[str, int], checksums: dict[str, str]) -> Manifest:
    options = run.config.checkpoint
    return Manifest(
        format=FORMAT,
        iteration=iteration,
        consumed_samples=run.layout.batch_sizes.consumed_after(iteration),
        has_optimizer=not options.no_save_optim,
        has_rng=not options.no_save_rng,
        model=model_of(run),
        optimizer=optimizer_of(run.config),
        layout=layout_of(run.config, run.layout.world_size),
        versions={
            "seq1f1b": import_module("megatron.seq1f1b").__version__,
            "megatron-core": metadata.version("megatron-core"),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        configuration=asdict(run.config),
        files=files,
        checksums=checksums,
    )


def _on_rank_0(action: Callable[[], object], partial: Path, *, what: str) -> None:
    """Do something on rank 0 while the others wait for its end, or its failure."""

    def on_rank_0() -> None:
        if dist.get_rank() == 0:
            action()

    _together(on_rank_0, partial, what=what)


def _together(action: Callable[[], Result], partial: Path, *, what: str) -> list[Result]:
    """What every process's action returns; a failure of one is a failure of all, so that none waits.

    What there is of the checkpoint is removed then: it may be what fills the disk.
    """
    result = failure = None
    try:
        result = action()
    except Exception as error:
        cause = _cause(error)
        failure = f"rank {dist.get_rank()}: {str(cause) or type(cause).__name__}"
    outcomes: list[tuple[Any, str | None]] = [(None, None)] * dist.get_world_size()
    dist.all_gather_object(outcomes, (result, failure))
    found = [text for _, text in outcomes if text is not None]
    if found:
        free = folders.free_bytes(partial.parent)
        if dist.get_rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
        raise SaveError(
            f"cannot {what} checkpoint {partial}: {found[0]} ({free / 1e6:,.1f} MB are free there); "
            "checkpoints before it are whole"
        )
    return [result for result, _ in outcomes]


def _cause(error: BaseException) -> BaseException:
    """What the system refused, if that is behind an error: torch's writer stumbles over it once more."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, OSError):
            return found
        found = found.__cause__ or found.__context__
    return error
