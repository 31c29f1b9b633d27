"""Synthetic samples for trying a layout without data.

Sample i is drawn from (seed, i) alone, so any layout, and any process of it, sees the same samples.
Tokens follow a noisy rule (the next id is the last one plus a stride of the document), so that a
model can learn something and a falling loss means that the step works.
"""

from __future__ import annotations

import numpy as np
import torch

from megatron.seq1f1b.data.samples import Sample, sample_fields
from megatron.seq1f1b.data.settings import DocumentRules
from megatron.seq1f1b.errors import ConfigurationError

_MEAN_DOCUMENT_TOKENS = 200
_NOISE = 0.1


class MockDataset:
    """`num_samples` deterministic samples of `seq_length` tokens with ends of documents in them."""

    def __init__(
        self, *, num_samples: int, seq_length: int, vocab_size: int, seed: int, rules: DocumentRules
    ) -> None:
        """Samples are drawn when asked for.

        Args:
            num_samples: length of the dataset.
            seq_length: tokens per sample.
            vocab_size: ids are below it, the end-of-document id of `rules` included.
            seed: seed of all samples.
            rules: end-of-document id and what it resets or masks.
        """
        if vocab_size < 2 or not 0 <= rules.eod < vocab_size:
            raise ConfigurationError(
                f"mock data needs a vocabulary of at least 2 ids that holds its end-of-document "
                f"id; got {vocab_size} ids and end-of-document {rules.eod}"
            )
        self._num_samples = num_samples
        self._seq_length = seq_length
        self._vocab_size = vocab_size
        self._seed = seed
        self._rules = rules

    def __len__(self) -> int:
        return self._num_samples

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self._num_samples:
            raise IndexError(f"sample {index} of a mock dataset of {self._num_samples}")
        text = torch.from_numpy(self._text(index))
        return sample_fields(text[:-1].clone(), text[1:].clone(), rules=self._rules)

    def _text(self, index: int) -> np.ndarray:
        """S+1 ids; one id of each document, and always at least one of the sample, is the end."""
        length, ids = self._seq_length + 1, self._vocab_size - 1
        random = np.random.default_rng([self._seed, index])
        is_end = random.random(length) < 1 / min(_MEAN_DOCUMENT_TOKENS, length)
        is_end[random.integers(length)] = True
        document: np.ndarray = np.cumsum(is_end) - is_end
        strides = random.integers(1, min(ids, 16) + 1, size=document[-1] + 1)
        starts = random.integers(ids, size=document[-1] + 1)
        text = (starts[document] + strides[document] * np.arange(length)) % ids
        is_noise = random.random(length) < _NOISE
        text[is_noise] = random.integers(ids, size=int(is_noise.sum()))
        # Ids count past the end-of-document id, wherever it lies in the vocabulary.
        text += text >= self._rules.eod
        text[is_end] = self._rules.eod
        return text.astype(np.int64)
