"""Which samples a run reads: its data settings, and how many samples of each split it takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from megatron.seq1f1b.config import Config, DataOptions, Layout
from megatron.seq1f1b.data import DataSettings, parse_blend
from megatron.seq1f1b.errors import ConfigurationError

if TYPE_CHECKING:
    from megatron.seq1f1b.data import Tokenizer


@dataclass(frozen=True, kw_only=True)
class SampleCounts:
    """Samples over a whole run and all processes."""

    train: int
    valid: int
    """Of each validation set."""
    test: int


def data_settings(config: Config, tokenizer: Tokenizer) -> DataSettings:
    """The data room's settings of a run."""
    data = config.data
    return DataSettings(
        tokenizer=tokenizer,
        seq_length=config.training.seq_length,
        seed=config.training.seed,
        mock_data=data.mock_data,
        data_path=tuple(data.data_path),
        split=data.split,
        train_data_path=tuple(data.train_data_path),
        valid_data_path=tuple(data.valid_data_path),
        test_data_path=tuple(data.test_data_path),
        data_args_path=data.data_args_path,
        data_cache_path=data.data_cache_path,
        num_dataset_builder_threads=data.num_dataset_builder_threads,
        mmap_bin_files=not data.no_mmap_bin_files,
        reset_position_ids=data.reset_position_ids,
        reset_attention_mask=data.reset_attention_mask,
        eod_mask_loss=data.eod_mask_loss,
    )


def sample_counts(config: Config, layout: Layout) -> SampleCounts:
    """The samples of all steps; each validation takes `--eval-iters` global batches of its own."""
    training = config.training
    evaluations = layout.train_iters // training.eval_interval
    return SampleCounts(
        train=layout.batch_sizes.consumed_after(layout.train_iters),
        valid=evaluations * training.eval_iters * layout.global_batch_size,
        test=training.eval_iters * layout.global_batch_size if config.data.test_data_path else 0,
    )


def check_evaluations(config: Config) -> None:
    """Refuse validation and test data that would not be read as asked.

    Raises:
        ConfigurationError: with the flag that is missing.
    """
    validation_prefixes(config.data)
    if config.data.test_data_path and not config.training.eval_iters:
        raise ConfigurationError(
            f"--test-data-path {' '.join(config.data.test_data_path)} is not read with --eval-iters 0; give "
            "the number of batches, or leave the path out"
        )


def validation_prefixes(data: DataOptions) -> dict[str, str]:
    """With `--multiple-validation-sets` the prefix of each set by its name, else nothing.

    A name is the last part of the prefix, or all of it where two would be named alike.

    Raises:
        ConfigurationError: sets that are not named one by one.
    """
    if not data.multiple_validation_sets:
        return {}
    prefixes = data.valid_data_path
    if len(prefixes) < 2 or len(set(prefixes)) < len(prefixes) or parse_blend(prefixes).weights:
        raise ConfigurationError(
            "--multiple-validation-sets needs --valid-data-path with two or more different prefixes and no "
            f"weights; given is {' '.join(prefixes) or 'none'}"
        )
    names = [Path(prefix).name for prefix in prefixes]
    return dict(zip(names if len(set(names)) == len(names) else prefixes, prefixes, strict=True))
