"""Batches for pretraining: tokenizers, indexed datasets, and microbatches.

The names below are imported on first use, so that checks which run before processes join do not
wait for torch and megatron.core.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from megatron.seq1f1b.data.blend import Blend, parse_blend
    from megatron.seq1f1b.data.checks import check_data_files, check_data_settings
    from megatron.seq1f1b.data.datasets import SplitDatasets, build_train_valid_test_datasets
    from megatron.seq1f1b.data.loader import Batch, batches
    from megatron.seq1f1b.data.mock import MockDataset
    from megatron.seq1f1b.data.settings import DataSettings
    from megatron.seq1f1b.data.share import TensorParallelBatches
    from megatron.seq1f1b.data.tokenizers import Tokenizer, build_tokenizer

_HOMES = {
    "Batch": "loader",
    "Blend": "blend",
    "DataSettings": "settings",
    "MockDataset": "mock",
    "SplitDatasets": "datasets",
    "TensorParallelBatches": "share",
    "Tokenizer": "tokenizers",
    "batches": "loader",
    "build_tokenizer": "tokenizers",
    "build_train_valid_test_datasets": "datasets",
    "check_data_files": "checks",
    "check_data_settings": "checks",
    "parse_blend": "blend",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)


__all__ = [
    "Batch",
    "Blend",
    "DataSettings",
    "MockDataset",
    "SplitDatasets",
    "TensorParallelBatches",
    "Tokenizer",
    "batches",
    "build_tokenizer",
    "build_train_valid_test_datasets",
    "check_data_files",
    "check_data_settings",
    "parse_blend",
]
