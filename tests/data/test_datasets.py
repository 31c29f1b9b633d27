"""Megatron-Core's datasets behind our settings: samples, splits, blends, caches, processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.blended_megatron_dataset_config import (
    convert_split_vector_to_split_matrix,
    parse_and_normalize_split,
)
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

from megatron.seq1f1b.data import DataSettings, build_tokenizer, build_train_valid_test_datasets
from megatron.seq1f1b.data.index_cache import cache_directory
from megatron.seq1f1b.data.samples import SampleDataset
from megatron.seq1f1b.data.sources import parse_split
from megatron.seq1f1b.errors import DataError
from tests.data.corpora import random_documents, write_pair
from tests.harness import run_distributed

SEQ_LENGTH = 32


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    documents = random_documents(num_documents=300, vocab_size=100, eod=0)
    return write_pair(tmp_path / "pair", [[*ids[:-1], 100] for ids in documents])


def settings(*data_path: str, **overrides: object) -> DataSettings:
    return DataSettings(
        tokenizer=build_tokenizer("NullTokenizer", vocab_size=100),
        seq_length=SEQ_LENGTH,
        data_path=data_path,
        **{"split": "90,8,2", **overrides},  # type: ignore[arg-type]
    )


def tokens_of(dataset: SampleDataset | None, num_samples: int) -> torch.Tensor:
    assert dataset is not None
    return torch.stack([dataset[index]["tokens"] for index in range(num_samples)])


def test_fields_are_those_of_megatron_core(prefix: str, tmp_path: Path) -> None:
    rules = {"reset_position_ids": True, "reset_attention_mask": True, "eod_mask_loss": True}
    ours = build_train_valid_test_datasets(settings(prefix, **rules), train_samples=50).train
    assert ours is not None
    config = GPTDatasetConfig(
        random_seed=1234,
        sequence_length=SEQ_LENGTH,
        blend=([prefix], None),
        split="90,8,2",
        path_to_cache=str(tmp_path / "core"),
        tokenizer=build_tokenizer("NullTokenizer", vocab_size=100),
        create_attention_mask=True,
        **rules,
    )
    core = BlendedMegatronDatasetBuilder(GPTDataset, [50, 0, 0], lambda: True, config).build()[0]
    for index in range(50):
        expected = core[index]
        for name in ("tokens", "labels", "loss_mask", "position_ids"):
            assert torch.equal(ours[index][name], expected[name]), name
        starts = ours[index]["document_starts"]
        can_see = torch.arange(SEQ_LENGTH)[None, :] >= starts[:, None]
        is_causal = torch.ones(SEQ_LENGTH, SEQ_LENGTH).tril().bool()
        assert torch.equal(can_see & is_causal, ~expected["attention_mask"][0])


def test_samples_are_the_same_from_the_cache(prefix: str) -> None:
    first = build_train_valid_test_datasets(settings(prefix), train_samples=50, valid_samples=4)
    second = build_train_valid_test_datasets(settings(prefix), train_samples=50, valid_samples=4)
    assert torch.equal(tokens_of(first.train, 50), tokens_of(second.train, 50))
    assert torch.equal(tokens_of(first.valid, 4), tokens_of(second.valid, 4))
    assert first.test is None


def test_seed_decides_the_order(prefix: str) -> None:
    one, other = (
        build_train_valid_test_datasets(settings(prefix, seed=seed), train_samples=50).train
        for seed in (1, 2)
    )
    assert not torch.equal(tokens_of(one, 50), tokens_of(other, 50))


def test_more_samples_than_one_epoch_holds(prefix: str) -> None:
    datasets = build_train_valid_test_datasets(settings(prefix), train_samples=2000, valid_samples=100)
    assert datasets.train is not None
    assert datasets.valid is not None
    assert len(datasets.train) >= 2000
    assert len(datasets.valid) >= 100


def test_data_prepared_anew_under_the_same_name_is_not_read_through_the_old_index(tmp_path: Path) -> None:
    for seed in (0, 1):
        documents = random_documents(num_documents=300 - 100 * seed, vocab_size=100, eod=0, seed=seed)
        prefix = write_pair(tmp_path / "pair", [[*ids[:-1], 100] for ids in documents])
        text = np.concatenate(documents)
        datasets = build_train_valid_test_datasets(settings(prefix, split="1"), train_samples=50)
        seen = tokens_of(datasets.train, 50).flatten().bincount(minlength=101)[1:100]
        present = np.bincount(text, minlength=101)[1:100]
        assert ((seen > 0).numpy() <= (present > 0)).all()
    assert len(list((tmp_path / "index_cache").iterdir())) == 2


def test_cache_goes_where_it_is_told(prefix: str, tmp_path: Path) -> None:
    place = tmp_path / "elsewhere"
    build_train_valid_test_datasets(settings(prefix, data_cache_path=str(place)), train_samples=5)
    assert list(place.iterdir())
    assert not (tmp_path / "index_cache").exists()


def test_cut_off_cache_is_told(prefix: str) -> None:
    build_train_valid_test_datasets(settings(prefix), train_samples=5)
    for path in cache_directory(settings(prefix), (prefix,)).glob("*shuffle_index.npy"):
        path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DataError, match="delete that folder if a run was interrupted"):
        build_train_valid_test_datasets(settings(prefix), train_samples=5)


@pytest.mark.parametrize("weighted", [True, False])
def test_blend_draws_by_weight_or_by_size(tmp_path: Path, weighted: bool) -> None:
    small = write_pair(tmp_path / "small", [[1] * 31 + [100]] * 100)
    large = write_pair(tmp_path / "large", [[2] * 31 + [100]] * 300)
    words = ("0.5", small, "0.5", large) if weighted else (small, large)
    dataset = build_train_valid_test_datasets(settings(*words, split="1"), train_samples=1000).train
    text = tokens_of(dataset, 1000)
    share = float((text == 1).sum() / (text != 100).sum())
    assert share == pytest.approx(0.5 if weighted else 0.25, abs=0.01)


def test_a_path_for_each_split(tmp_path: Path) -> None:
    prefixes = {
        f"{name}_data_path": (write_pair(tmp_path / name, [[number] * 31 + [100]] * 20),)
        for number, name in enumerate(("train", "valid", "test"), start=1)
    }
    datasets = build_train_valid_test_datasets(
        settings(**prefixes), train_samples=10, valid_samples=5, test_samples=5
    )
    for number, dataset in enumerate((datasets.train, datasets.valid, datasets.test), start=1):
        assert set(tokens_of(dataset, 5).flatten().tolist()) == {number, 100}


@pytest.mark.parametrize("split", ["969,30,1", "98,2,0", "1", "0,1,0", "3.5,1,1", "1,1"])
def test_parts_of_a_split_are_those_of_megatron_core(split: str) -> None:
    assert list(parse_split(split)) == convert_split_vector_to_split_matrix(parse_and_normalize_split(split))


def test_mock_splits_differ() -> None:
    datasets = build_train_valid_test_datasets(
        settings(mock_data=True), train_samples=4, valid_samples=4, test_samples=0
    )
    assert datasets.test is None
    assert not torch.equal(tokens_of(datasets.train, 4), tokens_of(datasets.valid, 4))


def built_tokens(prefixes: tuple[str, ...]) -> torch.Tensor:
    datasets = build_train_valid_test_datasets(settings(*prefixes), train_samples=40, valid_samples=4)
    return torch.cat((tokens_of(datasets.train, 40), tokens_of(datasets.valid, 4)))


@pytest.mark.parametrize("num_prefixes", [1, 2])
def test_every_process_sees_the_same_samples(prefix: str, num_prefixes: int) -> None:
    """The first process builds the indices, the others wait for them."""
    alone = built_tokens((prefix,) * num_prefixes)
    for path in (Path(prefix).parent / "index_cache").rglob("*.npy"):
        path.unlink()
    first, second = run_distributed(built_tokens, 2, (prefix,) * num_prefixes)
    assert torch.equal(first, second)
    assert torch.equal(first, alone)
