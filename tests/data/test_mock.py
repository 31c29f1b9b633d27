"""Mock samples: the same everywhere, inside the vocabulary, with ends of documents."""

from __future__ import annotations

import hashlib

import pytest
import torch

from megatron.seq1f1b.data import MockDataset
from megatron.seq1f1b.data.settings import DocumentRules
from megatron.seq1f1b.errors import ConfigurationError


def mock(
    *, num_samples: int = 20, seq_length: int = 64, vocab_size: int = 100, eod: int = 99, seed: int = 5
) -> MockDataset:
    return MockDataset(
        num_samples=num_samples,
        seq_length=seq_length,
        vocab_size=vocab_size,
        seed=seed,
        rules=DocumentRules(eod=eod),
    )


def test_sample_depends_on_seed_and_index_alone() -> None:
    long, short = mock(num_samples=1000), mock(num_samples=10)
    for index in (9, 0, 4):
        assert torch.equal(long[index]["tokens"], short[index]["tokens"])
    assert not torch.equal(short[0]["tokens"], short[1]["tokens"])
    assert not torch.equal(short[0]["tokens"], mock(seed=6)[0]["tokens"])


def test_samples_are_those_of_earlier_versions() -> None:
    """Runs are compared across versions; a change here must be told in the changelog."""
    digest = hashlib.sha256(mock()[3]["tokens"].numpy().astype("<i8").tobytes()).hexdigest()
    assert digest == "e43af509716221272ec06ae8848604120dd0942d19070d501fb461faf300d440"


@pytest.mark.parametrize(("vocab_size", "eod"), [(2, 0), (2, 1), (3, 1), (512, 511), (512, 0), (70_000, 7)])
def test_ids_are_in_the_vocabulary_and_contain_ends(vocab_size: int, eod: int) -> None:
    dataset = mock(vocab_size=vocab_size, eod=eod)
    text = torch.cat([dataset[index]["tokens"] for index in range(20)])
    assert int(text.min()) >= 0
    assert int(text.max()) < vocab_size
    assert (text == eod).any()
    assert (text != eod).any()


@pytest.mark.parametrize("seq_length", [1, 2, 64])
def test_every_sample_contains_an_end(seq_length: int) -> None:
    dataset = mock(seq_length=seq_length)
    for index in range(20):
        sample = dataset[index]
        assert (torch.cat((sample["tokens"], sample["labels"][-1:])) == 99).any()


def test_labels_are_tokens_one_ahead() -> None:
    sample = mock()[0]
    assert sample["tokens"].shape == sample["labels"].shape == (64,)
    assert torch.equal(sample["tokens"][1:], sample["labels"][:-1])


def test_vocabulary_without_its_end_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="got 10 ids and end-of-document 10"):
        mock(vocab_size=10, eod=10)


def test_index_past_the_end() -> None:
    dataset = mock(num_samples=3)
    with pytest.raises(IndexError, match="sample 3 of a mock dataset of 3"):
        dataset[3]
