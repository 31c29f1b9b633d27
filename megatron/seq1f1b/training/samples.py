"""Which samples a run reads: its data settings, and how many samples of each split it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from megatron.seq1f1b.config import Config, Layout
from megatron.seq1f1b.data import DataSettings

if TYPE_CHECKING:
    from megatron.seq1f1b.data import Tokenizer


@dataclass(frozen=True, kw_only=True)
class SampleCounts:
    """Samples over a whole run and all processes."""

    train: int
    valid: int


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
    )
