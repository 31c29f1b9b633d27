"""Batches, their fields, and reading ahead."""

from __future__ import annotations

import threading
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megatron.seq1f1b.data import MockDataset, batches
from megatron.seq1f1b.data.prefetch import prefetched
from megatron.seq1f1b.data.samples import document_starts, sample_fields
from megatron.seq1f1b.data.settings import DocumentRules
from megatron.seq1f1b.errors import ConfigurationError, DataError

EVERYTHING = DocumentRules(eod=9, reset_position_ids=True, reset_attention_mask=True, eod_mask_loss=True)


def mock(rules: DocumentRules = EVERYTHING) -> MockDataset:
    return MockDataset(num_samples=24, seq_length=40, vocab_size=10, seed=1, rules=rules)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30))
def test_document_starts_against_a_plain_loop(tokens: list[int]) -> None:
    expected, start = [], 0
    for index, token in enumerate(tokens):
        expected.append(start)
        if token == 3:
            start = index + 1
    assert document_starts(torch.tensor(tokens), eod=3).tolist() == expected


def test_fields_of_a_packed_sample() -> None:
    tokens = torch.tensor([4, 9, 5, 6, 9, 9, 7])
    sample = sample_fields(tokens, tokens.roll(-1), rules=EVERYTHING)
    assert sample["document_starts"].tolist() == [0, 0, 2, 2, 2, 5, 6]
    assert sample["position_ids"].tolist() == [0, 1, 0, 1, 2, 0, 0]
    assert sample["loss_mask"].tolist() == [1, 0, 1, 1, 0, 0, 1]


def test_fields_without_rules() -> None:
    sample = mock(DocumentRules(eod=9))[0]
    assert set(sample) == {"tokens", "labels", "position_ids", "loss_mask"}
    assert sample["position_ids"].tolist() == list(range(40))
    assert sample["loss_mask"].tolist() == [1.0] * 40


def test_loss_mask_of_the_dataset_is_kept() -> None:
    tokens = torch.tensor([4, 9, 5])
    sample = sample_fields(tokens, tokens, rules=EVERYTHING, loss_mask=torch.tensor([0.0, 1.0, 1.0]))
    assert sample["loss_mask"].tolist() == [0, 0, 1]


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_batches_are_the_samples_of_the_dataset_in_order(num_workers: int) -> None:
    dataset = mock()
    iterator = batches(
        dataset,
        micro_batch_size=2,
        data_parallel_rank=1,
        data_parallel_size=2,
        global_batch_size=8,
        consumed_samples=8,
        num_workers=num_workers,
    )
    read = list(iterator)
    assert len(read) == 4
    expected = [(10, 11), (14, 15), (18, 19), (22, 23)]
    for batch, (first, second) in zip(read, expected, strict=True):
        for name, field in batch.items():
            assert torch.equal(field, torch.stack([dataset[first][name], dataset[second][name]]))
    types = {name: (field.dtype, tuple(field.shape)) for name, field in read[0].items()}
    assert types == {
        "tokens": (torch.int64, (2, 40)),
        "labels": (torch.int64, (2, 40)),
        "position_ids": (torch.int64, (2, 40)),
        "loss_mask": (torch.float32, (2, 40)),
        "document_starts": (torch.int64, (2, 40)),
    }


def test_unknown_loader_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"--dataloader-type random .* single, cyclic"):
        batches(
            mock(),
            micro_batch_size=1,
            data_parallel_rank=0,
            data_parallel_size=1,
            global_batch_size=1,
            dataloader_type="random",
        )


def test_arguments_are_checked_before_the_first_batch() -> None:
    with pytest.raises(DataError, match="24 samples"):
        batches(mock(), micro_batch_size=1, data_parallel_rank=0, data_parallel_size=1, global_batch_size=25)


def test_reading_ahead_is_bounded() -> None:
    loaded: list[int] = []
    both_waiting = threading.Barrier(2, timeout=10)

    def load(key: int) -> int:
        loaded.append(key)
        if key == 3:
            both_waiting.wait()  # the last of those that may be ahead of the first
        return key

    iterator = prefetched(load, range(100), num_workers=1, depth=3)
    assert next(iterator) == 0
    both_waiting.wait()
    assert loaded == [0, 1, 2, 3]
    iterator.close()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_error_of_a_read_is_raised_in_its_place(num_workers: int) -> None:
    def load(key: int) -> int:
        if key == 2:
            raise DataError("sample 2")
        return key

    iterator = prefetched(load, range(10), num_workers=num_workers, depth=4)
    assert list(islice(iterator, 2)) == [0, 1]
    with pytest.raises(DataError, match="sample 2"):
        next(iterator)


def test_threads_end_with_the_iterator() -> None:
    iterator = prefetched(lambda key: key, range(100), num_workers=2, depth=4)
    next(iterator)
    workers = [thread for thread in threading.enumerate() if thread.name.startswith("seq1f1b-data")]
    assert workers
    iterator.close()
    for worker in workers:
        worker.join(timeout=10)
        assert not worker.is_alive()
