"""Training, validation and test samples of a run, over Megatron-Core's GPT datasets.

Megatron-Core packs documents into samples, shuffles them by seed, blends, and keeps the indices it
made in a cache; all of that is its own. Here its settings are filled in, its cache is bound to the
data it was made from, and its samples get their fields (`samples.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch.distributed as dist

from megatron.seq1f1b.data.blend import Blend
from megatron.seq1f1b.data.checks import check_shares
from megatron.seq1f1b.data.index_cache import cache_directory
from megatron.seq1f1b.data.indexed import IndexedFiles
from megatron.seq1f1b.data.mock import MockDataset
from megatron.seq1f1b.data.samples import Sample, SampleDataset, sample_fields
from megatron.seq1f1b.data.settings import DataSettings, DocumentRules
from megatron.seq1f1b.data.sources import SPLITS, Blends, Sizes, resolve_blends
from megatron.seq1f1b.errors import ConfigurationError, DataError

if TYPE_CHECKING:
    from megatron.core.datasets.gpt_dataset import GPTDatasetConfig
    from torch.utils.data import Dataset

    CoreDataset = Dataset[Sample]


@dataclass(frozen=True, kw_only=True)
class SplitDatasets:
    """One dataset per split; `None` where nothing was asked for or the split has no share."""

    train: SampleDataset | None
    valid: SampleDataset | None
    test: SampleDataset | None


def build_train_valid_test_datasets(
    settings: DataSettings, *, train_samples: int, valid_samples: int = 0, test_samples: int = 0
) -> SplitDatasets:
    """The datasets of a run, each with at least the samples asked for.

    With torch.distributed running, every rank must call this: rank 0 builds the sample indices,
    the others wait and read them.

    Raises:
        ConfigurationError: no source, or more than one kind of source, of data.
        DataError: data that cannot be used, or a cache that cannot be read.
    """
    sizes = (train_samples, valid_samples, test_samples)
    blends = resolve_blends(settings)
    if blends is None:
        return _mock_datasets(settings, sizes)
    if not any(sizes):
        return SplitDatasets(train=None, valid=None, test=None)
    check_shares(blends, split=settings.split, sizes=sizes)
    parts = _core_datasets(settings, blends, sizes)
    wrapped = {
        name: None if part is None else GPTSamples(part, rules=settings.rules)
        for name, part in zip(SPLITS, parts, strict=True)
    }
    return SplitDatasets(**wrapped)


class GPTSamples:
    """Samples of a Megatron-Core dataset under our document rules."""

    def __init__(self, dataset: CoreDataset, *, rules: DocumentRules) -> None:
        self._dataset = dataset
        self._rules = rules

    def __len__(self) -> int:
        return len(self._dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Sample:
        sample = self._dataset[index]
        return sample_fields(
            sample["tokens"], sample["labels"], rules=self._rules, loss_mask=sample["loss_mask"]
        )


def _mock_datasets(settings: DataSettings, sizes: Sizes) -> SplitDatasets:
    """Mock splits differ by seed, so that validation is not training."""
    splits = [
        MockDataset(
            num_samples=size,
            seq_length=settings.seq_length,
            vocab_size=settings.tokenizer.vocab_size,
            seed=settings.seed + 1_000_003 * place,
            rules=settings.rules,
        )
        if size
        else None
        for place, size in enumerate(sizes)
    ]
    return SplitDatasets(**dict(zip(SPLITS, splits, strict=True)))


def _core_datasets(settings: DataSettings, blends: Blends, sizes: Sizes) -> list[CoreDataset | None]:
    """Megatron-Core's datasets; splits of which nothing is asked are left out."""
    from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
    from megatron.core.datasets.gpt_dataset import GPTDataset

    check_core_helpers()
    config = _core_config(settings, blends, sizes)
    try:
        with _some_process_group():
            return BlendedMegatronDatasetBuilder(GPTDataset, list(sizes), lambda: True, config).build()
    except (OSError, ValueError, EOFError, IndexError) as error:
        raise DataError(
            f"sample indices in {config.path_to_cache} cannot be written or read ({error}); check "
            "--data-cache-path, or delete that folder if a run was interrupted while writing it"
        ) from error


def _core_config(settings: DataSettings, blends: Blends, sizes: Sizes) -> GPTDatasetConfig:
    """Megatron-Core's settings; masks and positions are left to `samples.py`."""
    from megatron.core.datasets.gpt_dataset import GPTDatasetConfig

    per_split = blends.per_split and [
        _core_blend(blend) if size else None for blend, size in zip(blends.per_split, sizes, strict=True)
    ]
    config = GPTDatasetConfig(
        random_seed=settings.seed,
        sequence_length=settings.seq_length,
        blend=_core_blend(blends.common),
        blend_per_split=per_split,
        split=settings.split if blends.common else None,
        path_to_cache=str(cache_directory(settings, blends.prefixes)),
        num_dataset_builder_threads=settings.num_dataset_builder_threads,
        mmap_bin_files=settings.mmap_bin_files,
        tokenizer=settings.tokenizer,
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
    )
    if config.split_matrix is not None:
        shares = zip(config.split_matrix, sizes, strict=True)
        config.split_matrix = [share if size else None for share, size in shares]
    return config


def _core_blend(blend: Blend | None) -> tuple[list[str], list[float] | None] | None:
    """A blend as Megatron-Core takes it; several prefixes without weights get their token counts.

    Left without weights, Megatron-Core would serve such a blend for one epoch only.
    """
    if blend is None:
        return None
    if blend.weights is not None:
        return list(blend.prefixes), list(blend.weights)
    if len(blend.prefixes) == 1:
        return list(blend.prefixes), None
    return list(blend.prefixes), [float(IndexedFiles(path).tokens.size) for path in blend.prefixes]


def check_core_helpers() -> None:
    """Refuse a Megatron-Core without its compiled index builder."""
    try:
        import megatron.core.datasets.helpers_cpp  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            "megatron.core.datasets.helpers_cpp, the compiled index builder of Megatron-Core, does "
            f"not load ({error}); use a Python for which megatron-core has a wheel, or pip install "
            "pybind11 and a C++ compiler and run make in megatron/core/datasets"
        ) from error


@contextmanager
def _some_process_group() -> Iterator[None]:
    """A group of this process alone where there is none: Megatron-Core's blends ask for a rank."""
    if dist.is_initialized():
        yield
        return
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()
