"""Files, tokenizer and documents."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Data: files, tokenizer and documents."""

    data_path: list[str] = field(default_factory=list)
    """Prefix of a .bin/.idx pair, or weight prefix weight prefix ..."""
    split: str = "969,30,1"
    """Shares of training, validation and test."""
    train_data_path: list[str] = field(default_factory=list)
    """As --data-path, for training alone; instead of --data-path and --split."""
    valid_data_path: list[str] = field(default_factory=list)
    """As --data-path, for validation alone."""
    multiple_validation_sets: bool = False
    """A loss for each of the prefixes of --valid-data-path."""
    test_data_path: list[str] = field(default_factory=list)
    """As --data-path, for the test after the last step, over --eval-iters batches."""
    data_args_path: str | None = None
    """A file with the words of --data-path."""
    dataloader_type: str = "single"
    """single: the dataset's order, once; cyclic: shuffled anew for every epoch."""
    mock_data: bool = False
    """Synthetic documents instead of files."""
    data_cache_path: str | None = None
    """Folder of sample indices; beside the data."""
    num_dataset_builder_threads: int = 1
    """Threads that make sample indices."""
    no_mmap_bin_files: bool = False
    """Read .bin files instead of mapping them into memory."""
    tokenizer_type: str = "GPT2BPETokenizer"
    """Class of tokenizer, as in tools/preprocess_data.py."""
    vocab_file: str | None = None
    """vocab.json of GPT2BPETokenizer."""
    merge_file: str | None = None
    """merges.txt of GPT2BPETokenizer."""
    tokenizer_model: str | None = None
    """File or folder of the other tokenizers."""
    vocab_size: int | None = None
    """Ids of NullTokenizer, 0 to N-1; end-of-document is N."""
    reset_position_ids: bool = False
    """Count positions from each document's start."""
    reset_attention_mask: bool = False
    """No attention across documents."""
    eod_mask_loss: bool = False
    """No loss on end-of-document tokens."""
    num_workers: int = 2
    """Threads that read batches ahead; 0 reads when asked."""
