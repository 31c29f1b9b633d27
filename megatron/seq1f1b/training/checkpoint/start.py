"""What a run starts from, found and checked before processes join."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType

from megatron.seq1f1b.errors import CheckpointError, ConfigurationError
from megatron.seq1f1b.training.checkpoint.compatibility import check_model
from megatron.seq1f1b.training.checkpoint.folder import check_writable, choose, free_bytes, iterations_of
from megatron.seq1f1b.training.checkpoint.manifest import Manifest
from megatron.seq1f1b.training.console import say
from megatron.seq1f1b.training.prepare import Run
from megatron.seq1f1b.training.reporting.checks import check_log_folders

Start = tuple[Path, Manifest]
_ORDERING = {
    "data": (
        "data_path",
        "train_data_path",
        "data_args_path",
        "split",
        "mock_data",
        "dataloader_type",
    ),
    "training": ("seed", "seq_length"),
}
"""What decides which sample is the next, by section of the configuration."""


def find_start(run: Run) -> Start | None:
    """The checkpoint that a run starts from; None for initial weights.

    Raises:
        ConfigurationError: flags that contradict each other, or a log that cannot be written.
        CheckpointError: a checkpoint that is missing, torn or of another model, or a folder for
            new ones that cannot be written.
    """
    options = run.config.checkpoint
    _check_flags(run)
    check_log_folders(run.config)
    if options.save is not None:
        check_writable(Path(options.save))
        _check_room(run, Path(options.save))
    start = None if options.load is None else choose_start(run)
    if start is None and options.save is not None:
        _tell_of_earlier_run(Path(options.save))
    return start


def choose_start(run: Run, damaged: Mapping[Path, str] = MappingProxyType({})) -> Start | None:
    """The checkpoint below --load that a run starts from, apart from folders known to be damaged.

    Raises:
        CheckpointError: as `find_start`.
    """
    options = run.config.checkpoint
    assert options.load is not None
    start = choose(Path(options.load), step=options.ckpt_step, say=say, damaged=damaged)
    if start is None:
        if options.exit_on_missing_checkpoint or options.finetune:
            what = ", so there is nothing to --finetune" if options.finetune else ""
            raise CheckpointError(
                f"--load {options.load} holds no checkpoint{what}; give the --save of a run"
            )
        say(f"{options.load} holds no checkpoint: starting from initial weights")
        return None
    folder, manifest = start
    check_model(manifest, run, folder)
    if not options.finetune:
        _check_position(run, folder, manifest)
        _tell_of_other_data(run, manifest)
    return start


def _check_flags(run: Run) -> None:
    options = run.config.checkpoint
    needs = {
        "--async-save": (options.async_save, "--save", options.save),
        "--keep-latest": (options.keep_latest is not None, "--save", options.save),
        "--no-save-optim": (options.no_save_optim, "--save", options.save),
        "--no-save-rng": (options.no_save_rng, "--save", options.save),
        "--ckpt-step": (options.ckpt_step is not None, "--load", options.load),
        "--finetune": (options.finetune, "--load", options.load),
        "--no-load-optim": (options.no_load_optim, "--load", options.load),
        "--no-load-rng": (options.no_load_rng, "--load", options.load),
        "--exit-on-missing-checkpoint": (options.exit_on_missing_checkpoint, "--load", options.load),
    }
    for flag, path in {"--save": options.save, "--load": options.load}.items():
        if path == "":
            raise ConfigurationError(f"{flag} names no folder; give one, or leave it out")
    for flag, (is_given, needed, value) in needs.items():
        if is_given and value is None:
            raise ConfigurationError(f"{flag} means nothing without {needed}; give {needed}, or leave it out")


def _tell_of_earlier_run(root: Path) -> None:
    there = iterations_of(root)
    if there:
        say(
            f"--save {root} holds checkpoints of an earlier run, up to step {there[-1]}; this one starts "
            "anew, and replaces those whose steps it comes to"
        )


def _check_room(run: Run, root: Path) -> None:
    """One checkpoint fits on the disk, counted low: weights of layers and vocabulary, Adam's two averages.

    A dry run only says so: the disk that it sees need not be the run's.
    """
    dimensions, training = run.dimensions, run.config.training
    tables = 2 if run.config.model.untie_embeddings_and_output_weights else 1
    vocabulary = tables * dimensions.padded_vocab_size * dimensions.hidden_size
    parameters = dimensions.num_layers * dimensions.layer_parameters + vocabulary
    is_half = training.bf16 or training.fp16
    bytes_each = (2 if is_half else 4) + (0 if run.config.checkpoint.no_save_optim else 12 if is_half else 8)
    needed, free = parameters * bytes_each, free_bytes(root)
    if needed <= free:
        return
    shortage = (
        f"--save {root} has room for {free / 1e9:,.1f} GB, and a checkpoint of {parameters / 1e6:,.1f} M "
        f"parameters takes {needed / 1e9:,.1f} GB at least; make room, or leave the optimizer's state "
        "out with --no-save-optim"
    )
    if not run.config.dry_run.dry_run:
        raise ConfigurationError(shortage)
    say(f"this machine's disk would be too small: {shortage}")


def _check_position(run: Run, folder: Path, manifest: Manifest) -> None:
    """The checkpoint stands between two steps of this run."""
    sizes, consumed = run.layout.batch_sizes, manifest.consumed_samples
    if sizes.consumed_after(sizes.whole_steps_in(consumed)) != consumed:
        grown = f" grown from {sizes.start} by {sizes.increment}" if sizes.rampup_samples else ""
        raise ConfigurationError(
            f"checkpoint {folder} stands after {consumed} samples, which is no multiple of "
            f"--global-batch-size {sizes.full}{grown}; use the batch sizes it was trained with, or --finetune"
        )
    steps, last = sizes.whole_steps_in(consumed), run.layout.train_iters
    if steps > last:
        raise ConfigurationError(
            f"checkpoint {folder} stands after step {steps}, and the run ends at step {last}: --train-iters "
            "and --train-samples count from the start of the run; give more, or --finetune to start anew"
        )


def _tell_of_other_data(run: Run, manifest: Manifest) -> None:
    """A position counts samples: in other data, or another order, some come again and some never."""
    here = asdict(run.config)
    differences = [
        f"--{name.replace('_', '-')} was {there[name]} and is {here[section][name]}"
        for section, names in _ORDERING.items()
        for name in names
        if name in (there := manifest.configuration.get(section, {})) and there[name] != here[section][name]
    ]
    if differences:
        say(
            f"the order of samples is not the checkpoint's: {'; '.join(differences)}; this run skips the "
            f"first {manifest.consumed_samples} samples of its own order, whichever those were"
        )
