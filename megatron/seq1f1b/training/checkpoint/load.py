"""Loads a checkpoint into a run's model and optimizer, whatever layout wrote it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist

from megatron.seq1f1b.errors import CheckpointError
from megatron.seq1f1b.training.build import Trained
from megatron.seq1f1b.training.checkpoint.compatibility import (
    CONVERTED,
    DISTRIBUTED,
    HALF,
    layout_of,
    optimizer_of,
)
from megatron.seq1f1b.training.checkpoint.integrity import choose_sound
from megatron.seq1f1b.training.checkpoint.manifest import Manifest
from megatron.seq1f1b.training.checkpoint.start import Start, choose_start
from megatron.seq1f1b.training.checkpoint.state import model_parts, set_random_states, sharded_state
from megatron.seq1f1b.training.console import say
from megatron.seq1f1b.training.prepare import Run
from megatron.seq1f1b.upstream import checkpoints
from megatron.seq1f1b.upstream.optimizer_forms import Form, ask_for_masters, ask_of, taken_from

_ASKED = "asked of an optimizer of another form"
_FROM_FLAGS = ("max_lr", "min_lr", "betas", "eps", "decoupled_weight_decay", "momentum")
"""Entries of an optimizer's groups of parameters that checkpoints hold, too."""


def load_start(run: Run, trained: Trained, start: Start | None) -> int:
    """Load what rank 0 found for a run, or what comes next where that is damaged; collective.

    Returns:
        The step to go on after; 0 for initial weights.

    Raises:
        CheckpointError: as `load`, and where all there is is damaged.
    """
    found = [start]
    dist.broadcast_object_list(found, src=0)
    started_at = time.perf_counter()
    sound = choose_sound(partial(choose_start, run), found[0])
    if sound is None:
        return 0
    say(_compared(sound[1], time.perf_counter() - started_at))
    return load(run, trained, *sound)


def _compared(manifest: Manifest, seconds: float) -> str:
    if not manifest.checksums:
        return "the checkpoint is of a release that wrote no checksums: only sizes of files are compared"
    size = sum(manifest.files.values())
    return (
        f"compared the checksums of {len(manifest.checksums)} files, {size / 1e6:,.1f} MB, in {seconds:.2f} s"
    )


def load(run: Run, trained: Trained, folder: Path, manifest: Manifest) -> int:
    """Fill a run's model, optimizer and random states; returns the step to go on after.

    Raises:
        CheckpointError: a file that cannot be read, or that lacks what is asked for.
    """
    options = run.config.checkpoint
    has_optimizer = manifest.has_optimizer and not (options.finetune or options.no_load_optim)
    has_rng = manifest.has_rng and not (options.finetune or options.no_load_rng)
    if has_rng and manifest.layout != layout_of(run.config, run.layout.world_size):
        say(f"random states of {folder.name} are of another layout and are left out: {manifest.layout}")
        has_rng = False
    state = sharded_state(trained, has_optimizer=has_optimizer, has_rng=has_rng, is_loading=True)
    is_converted = has_optimizer and _differ(optimizer_of(run.config), manifest.optimizer)
    try:
        loaded = (_converted(run, trained, manifest) if is_converted else checkpoints.load)(state, folder)
    except Exception as error:
        raise CheckpointError(f"rank {dist.get_rank()} cannot load checkpoint {folder}: {error}") from error
    for key, part in model_parts(trained).items():
        part.load_state_dict(loaded[key])
    if has_optimizer:
        _load_optimizer(trained, loaded["optimizer"])
        _set_scheduler(trained, loaded["scheduler"]["num_steps"])
    else:
        trained.optimizer.reload_model_params()
        _set_scheduler(trained, 0 if options.finetune else manifest.consumed_samples)
    if has_rng:
        set_random_states(loaded["rng"])
    said = ", weights alone" * options.finetune + ", optimizer state converted" * is_converted
    say(f"loaded {folder}, step {manifest.iteration}{said}")
    return 0 if options.finetune else run.layout.batch_sizes.whole_steps_in(manifest.consumed_samples)


def _converted(
    run: Run, trained: Trained, manifest: Manifest
) -> Callable[[dict[str, Any], Path], dict[str, Any]]:
    """`checkpoints.load` of a checkpoint whose optimizer has another form or precision than the run's."""
    own, there = (_form(of) for of in (optimizer_of(run.config), manifest.optimizer))

    def load_and_convert(state: dict[str, Any], folder: Path) -> dict[str, Any]:
        asked = state.pop("optimizer")
        if _precision(manifest.optimizer) not in ("", _precision(optimizer_of(run.config))):
            for key in model_parts(trained):
                ask_for_masters(state[key], there)
        loaded = checkpoints.load(state, folder)
        ask_of(asked, own=own, there=there)
        # By itself, for it may ask for the same tensors, and below a name that no checkpoint has.
        found = checkpoints.load({_ASKED: asked}, folder)[_ASKED]
        loaded["optimizer"] = taken_from(found, loaded["optimizer"], trained.optimizer, own=own)
        return loaded

    return load_and_convert


def _differ(own: Mapping[str, Any], there: Mapping[str, Any]) -> bool:
    """Whether optimizers save their states under other names or at other places."""
    return any(own.get(name) != there.get(name) for name in CONVERTED)


def _form(optimizer: Mapping[str, Any]) -> Form:
    """From what a manifest says of the optimizer."""
    return Form.of(is_distributed=bool(optimizer.get(DISTRIBUTED)), is_half=bool(_precision(optimizer)))


def _precision(optimizer: Mapping[str, Any]) -> str:
    """The flag of half precision; empty for float32, where weights are masters."""
    return next((flag for flag in HALF if optimizer.get(flag)), "")


def _load_optimizer(trained: Trained, state: Any) -> None:
    """Moments and steps are the checkpoint's; what flags say stays as they say, or it would be ignored."""
    flags = [
        {name: group[name] for name in _FROM_FLAGS if name in group}
        for group in trained.optimizer.param_groups
    ]
    trained.optimizer.load_state_dict(state)
    for group, said in zip(trained.optimizer.param_groups, flags, strict=True):
        group.update(said)


def _set_scheduler(trained: Trained, num_steps: int) -> None:
    """Learning rate and weight decay follow this run's flags, from where the other run was."""
    trained.scheduler.num_steps = num_steps
    trained.scheduler.step(0)
