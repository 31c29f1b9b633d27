"""The samples that a run reads: of its training, its validation sets and its test."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from megatron.seq1f1b.data import build_train_valid_test_datasets
from megatron.seq1f1b.data.samples import SampleDataset
from megatron.seq1f1b.training.prepare import Run
from megatron.seq1f1b.training.samples import data_settings, sample_counts, validation_prefixes


@dataclass(frozen=True, kw_only=True)
class RunDatasets:
    """Where samples come from."""

    train: SampleDataset
    validation: Mapping[str, SampleDataset]
    """By name, in the order given; none where a run does not validate."""
    test: SampleDataset | None


def read_data(run: Run) -> RunDatasets:
    """The samples of a run; collective."""
    counts, prefixes = sample_counts(run.config, run.layout), validation_prefixes(run.config.data)
    settings = data_settings(run.config, run.tokenizer)
    together = build_train_valid_test_datasets(
        settings,
        train_samples=counts.train,
        valid_samples=0 if prefixes else counts.valid,
        test_samples=counts.test,
    )
    assert together.train is not None, "a run with training samples has a training dataset"
    sets = {"validation": together.valid}
    if prefixes:
        sets = {
            name: build_train_valid_test_datasets(
                dataclasses.replace(
                    settings, train_data_path=(), valid_data_path=(prefix,), test_data_path=()
                ),
                train_samples=0,
                valid_samples=counts.valid,
            ).valid
            for name, prefix in prefixes.items()
        }
    validation = {name: dataset for name, dataset in sets.items() if dataset is not None}
    return RunDatasets(train=together.train, validation=validation, test=together.test)
