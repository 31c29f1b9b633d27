"""The schedules of learning rate and weight decay, in samples, as Megatron counts them."""

from __future__ import annotations

from dataclasses import dataclass

from megatron.seq1f1b.config.sections.optimizer import OptimizerOptions
from megatron.seq1f1b.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True)
class LearningRate:
    """Lengths in samples."""

    warmup_samples: int
    decay_samples: int
    wsd_decay_samples: int | None
    weight_decay_samples: int
    start_weight_decay: float
    end_weight_decay: float


def learning_rate_of(
    options: OptimizerOptions, *, train_iters: int, train_samples: int | None, global_batch_size: int
) -> LearningRate:
    """The schedules of a run, said in steps, in samples or as a share.

    Raises:
        ConfigurationError: lengths or rates that contradict each other.
    """
    _check_rates(options)
    _check_units(options, in_samples=train_samples is not None)
    all_samples = train_samples or train_iters * global_batch_size
    if train_samples is not None:
        decay, warmup = options.lr_decay_samples or all_samples, options.lr_warmup_samples
        wsd = options.lr_wsd_decay_samples
    else:
        decay = (options.lr_decay_iters or train_iters) * global_batch_size
        warmup = options.lr_warmup_iters * global_batch_size
        wsd = options.lr_wsd_decay_iters and options.lr_wsd_decay_iters * global_batch_size
    if options.lr_warmup_fraction is not None:
        if warmup:
            raise ConfigurationError(
                f"--lr-warmup-fraction {options.lr_warmup_fraction:g} and a number of steps or samples "
                "say the same thing twice; give one"
            )
        warmup = int(options.lr_warmup_fraction * decay)
    _check_lengths(
        options,
        warmup=warmup,
        decay=decay,
        wsd=wsd,
        unit=("iters", global_batch_size) if train_samples is None else ("samples", 1),
    )
    start, end = _weight_decays(options)
    return LearningRate(
        warmup_samples=warmup,
        decay_samples=decay,
        wsd_decay_samples=wsd,
        weight_decay_samples=all_samples,
        start_weight_decay=start,
        end_weight_decay=end,
    )


def _check_rates(options: OptimizerOptions) -> None:
    _check_decoupled_rates(options)
    if options.min_lr > options.lr:
        raise ConfigurationError(
            f"--min-lr {options.min_lr:g} is more than --lr {options.lr:g}, the highest; lower it"
        )
    if options.lr_warmup_init > options.lr:
        raise ConfigurationError(
            f"--lr-warmup-init {options.lr_warmup_init:g} is more than --lr {options.lr:g}, where "
            "the warmup ends; lower it"
        )


def _check_decoupled_rates(options: OptimizerOptions) -> None:
    """Embedding and output layer follow the same schedule between rates of their own."""
    highest, lowest = options.decoupled_lr, options.decoupled_min_lr
    if highest is None:
        if lowest is not None:
            raise ConfigurationError(
                f"--decoupled-min-lr {lowest:g} is where --decoupled-lr ends, which is not given; give both"
            )
        return
    flag, lowest = ("--min-lr", options.min_lr) if lowest is None else ("--decoupled-min-lr", lowest)
    for name, rate in {flag: lowest, "--lr-warmup-init": options.lr_warmup_init}.items():
        if rate > highest:
            raise ConfigurationError(
                f"{name} {rate:g} is more than --decoupled-lr {highest:g}, the highest of the embedding and "
                f"the output layer; {'give a lower --decoupled-min-lr' if name == '--min-lr' else 'lower it'}"
            )


def _check_units(options: OptimizerOptions, *, in_samples: bool) -> None:
    """Steps go with --train-iters, samples with --train-samples."""
    in_steps = {
        "--lr-decay-iters": options.lr_decay_iters,
        "--lr-warmup-iters": options.lr_warmup_iters,
        "--lr-wsd-decay-iters": options.lr_wsd_decay_iters,
    }
    samples = {
        "--lr-decay-samples": options.lr_decay_samples,
        "--lr-warmup-samples": options.lr_warmup_samples,
        "--lr-wsd-decay-samples": options.lr_wsd_decay_samples,
    }
    for flag, value in (in_steps if in_samples else samples).items():
        if value:
            wanted = "--train-iters" if in_samples else "--train-samples"
            raise ConfigurationError(f"{flag} {value} goes with {wanted}, which is not given; use its sister")


def _check_lengths(
    options: OptimizerOptions, *, warmup: int, decay: int, wsd: int | None, unit: tuple[str, int]
) -> None:
    """Lengths in samples; `unit` is what flags call theirs, and how many samples it has."""
    name, size = unit
    things = "steps" if name == "iters" else name
    if warmup >= decay:
        raise ConfigurationError(
            f"--lr-warmup-{name} {warmup // size} leaves nothing of the {decay // size} {things} of the "
            f"learning rate's schedule (--lr-decay-{name}, or --train-{name}); use fewer"
        )
    if options.lr_decay_style == "WSD" and wsd is None:
        raise ConfigurationError(f"--lr-decay-style WSD needs --lr-wsd-decay-{name}, its last phase")
    if options.lr_decay_style != "WSD" and wsd is not None:
        raise ConfigurationError(
            f"--lr-wsd-decay-{name} means nothing with --lr-decay-style {options.lr_decay_style}; use WSD"
        )
    if wsd is not None and wsd > decay - warmup:
        raise ConfigurationError(
            f"--lr-wsd-decay-{name} {wsd // size} is more than the {(decay - warmup) // size} {things} "
            "after the warmup; use fewer"
        )


def _weight_decays(options: OptimizerOptions) -> tuple[float, float]:
    given = (options.start_weight_decay, options.end_weight_decay)
    if options.weight_decay_incr_style == "constant":
        if given != (None, None):
            raise ConfigurationError(
                "--start-weight-decay and --end-weight-decay need --weight-decay-incr-style linear or cosine"
            )
        return options.weight_decay, options.weight_decay
    if given == (None, None):
        raise ConfigurationError(
            f"--weight-decay-incr-style {options.weight_decay_incr_style} needs --start-weight-decay or "
            "--end-weight-decay: both would be --weight-decay"
        )
    start, end = (options.weight_decay if value is None else value for value in given)
    if start > end:
        raise ConfigurationError(
            f"--start-weight-decay {start:g} is more than --end-weight-decay {end:g}; it only increases"
        )
    return start, end
