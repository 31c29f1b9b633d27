"""Saves a checkpoint: every process its shards, then one rename that makes it visible."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from megatron.seq1f1b.errors import CheckpointError
from megatron.seq1f1b.training.build import Trained
from megatron.seq1f1b.training.checkpoint import folder as folders
from megatron.seq1f1b.training.checkpoint.compatibility import layout_of, model_of, optimizer_of
from megatron.seq1f1b.training.checkpoint.manifest import FORMAT, Manifest, file_sizes, write_manifest
from megatron.seq1f1b.training.checkpoint.state import METADATA, sharded_state
from megatron.seq1f1b.training.prepare import Run
from megatron.seq1f1b.upstream import checkpoints


def save(run: Run, trained: Trained, root: Path, *, iteration: int) -> None:
    """Write the checkpoint of a step; collective, and over when every process may go on.

    Raises:
        CheckpointError: on every process where one of them could not write.
    """
    options = run.config.checkpoint
    partial = root / f".partial-iter_{iteration:07d}"
    _on_rank_0(lambda: folders.begin(root, iteration), what=f"begin checkpoint {partial}")
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
    _together(lambda: _write_shards(state, partial), what=f"write checkpoint {partial}")
    _on_rank_0(lambda: _finish(run, root, partial, iteration), what=f"finish checkpoint {partial}")


def _write_shards(state: dict[str, Any], partial: Path) -> None:
    checkpoints.save(
        state,
        partial,
        preprocess_common_before_consistancy_check=_comparable,
        content_metadata=dict(METADATA),
    )


def _comparable(common: dict[str, Any]) -> dict[str, Any]:
    """The part of the common state that is equal on every process: parameters are numbered by rank."""
    return {name: value for name, value in common.items() if name != "optimizer"}


def _finish(run: Run, root: Path, partial: Path, iteration: int) -> None:
    write_manifest(partial, _manifest(run, iteration, file_sizes(partial)))
    folders.publish(partial, iteration)
    if run.config.checkpoint.keep_latest is not None:
        folders.discard_oldest(root, keep=run.config.checkpoint.keep_latest)


def _manifest(run: Run, iteration: int, files: dict[str, int]) -> Manifest:
    options = run.config.checkpoint
    return Manifest(
        format=FORMAT,
        iteration=iteration,
        consumed_samples=iteration * run.layout.global_batch_size,
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
    )


def _on_rank_0(action: Callable[[], object], *, what: str) -> None:
    """Do something on rank 0 while the others wait for its end, or its failure."""

    def on_rank_0() -> None:
        if dist.get_rank() == 0:
            action()

    _together(on_rank_0, what=what)


def _together(action: Callable[[], object], *, what: str) -> None:
    """Do something on every process; a failure of one is a failure of all, so that none waits."""
    failure = None
    try:
        action()
    except Exception as error:
        failure = f"rank {dist.get_rank()}: {error}"
    failures: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(failures, failure)
    found = [text for text in failures if text is not None]
    if found:
        raise CheckpointError(f"cannot {what}: {found[0]}")
