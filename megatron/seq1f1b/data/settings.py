"""What a run says about its data, in one frozen value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from megatron.seq1f1b.data.tokenizers import Tokenizer


@dataclass(frozen=True, kw_only=True)
class DocumentRules:
    """How the end-of-document id shapes a packed sample."""

    eod: int
    reset_position_ids: bool = False
    """Positions start again at 0 after each end of document."""
    reset_attention_mask: bool = False
    """A token attends to its own document only."""
    eod_mask_loss: bool = False
    """Predicting the token after an end of document costs nothing."""


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """The data flags of Megatron, resolved; paths are prefixes of `.bin` and `.idx` pairs.

    `data_path`, or the three per-split paths, hold either prefixes or weights and prefixes in turn.
    With none of them and no `data_args_path`, `mock_data` must be set.
    """

    tokenizer: Tokenizer
    seq_length: int
    seed: int = 1234
    mock_data: bool = False
    data_path: tuple[str, ...] = ()
    split: str = "969,30,1"
    train_data_path: tuple[str, ...] = ()
    valid_data_path: tuple[str, ...] = ()
    test_data_path: tuple[str, ...] = ()
    data_args_path: str | None = None
    """A file with the words of `data_path`, for blends too long for a command line."""
    data_cache_path: str | None = None
    """Where sample indices are kept; default: a folder beside the first prefix."""
    reset_position_ids: bool = False
    reset_attention_mask: bool = False
    eod_mask_loss: bool = False
    num_dataset_builder_threads: int = 1
    mmap_bin_files: bool = True

    @property
    def rules(self) -> DocumentRules:
        """The document rules of this run."""
        return DocumentRules(
            eod=self.tokenizer.eod,
            reset_position_ids=self.reset_position_ids,
            reset_attention_mask=self.reset_attention_mask,
            eod_mask_loss=self.eod_mask_loss,
        )
