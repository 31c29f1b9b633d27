"""One read per tensor-parallel group."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist

from megatron.seq1f1b.data import MockDataset, TensorParallelBatches, batches
from megatron.seq1f1b.data.loader import Batch
from megatron.seq1f1b.data.settings import DocumentRules
from megatron.seq1f1b.errors import DataError
from tests.harness import run_distributed


def source(*, num_samples: int, has_document_starts: bool) -> Iterator[Batch]:
    rules = DocumentRules(eod=9, reset_attention_mask=has_document_starts, eod_mask_loss=True)
    dataset = MockDataset(num_samples=num_samples, seq_length=12, vocab_size=10, seed=1, rules=rules)
    return batches(
        dataset, micro_batch_size=2, data_parallel_rank=0, data_parallel_size=1, global_batch_size=2
    )


def shared(source: Iterator[Batch] | None, *, has_document_starts: bool) -> TensorParallelBatches:
    return TensorParallelBatches(
        source,
        group=dist.group.WORLD if dist.is_initialized() else None,
        micro_batch_size=2,
        seq_length=12,
        has_document_starts=has_document_starts,
    )


def read_all(has_document_starts: bool) -> list[Batch]:
    is_reader = dist.get_rank() == 0
    own = source(num_samples=6, has_document_starts=has_document_starts) if is_reader else None
    return list(shared(own, has_document_starts=has_document_starts))


@pytest.mark.parametrize("has_document_starts", [True, False])
def test_all_ranks_get_what_the_first_reads_and_end_together(has_document_starts: bool) -> None:
    expected = list(source(num_samples=6, has_document_starts=has_document_starts))
    for received in run_distributed(read_all, 3, has_document_starts):
        assert len(received) == len(expected) == 3
        for batch, original in zip(received, expected, strict=True):
            assert set(batch) == set(original)
            assert all(torch.equal(batch[name], original[name]) for name in original)
            assert all(batch[name].dtype == original[name].dtype for name in original)


def read_with_failure() -> str:
    def failing() -> Iterator[Batch]:
        yield next(source(num_samples=2, has_document_starts=False))
        raise DataError("the file is gone")

    received = shared(failing() if dist.get_rank() == 0 else None, has_document_starts=False)
    next(received)
    with pytest.raises(DataError) as caught:
        next(received)
    return str(caught.value)


def test_failed_read_ends_every_rank() -> None:
    first, second = run_distributed(read_with_failure, 2)
    assert first == "the file is gone"
    assert "failed on the first rank" in second


def test_process_alone_reads_for_itself() -> None:
    received = list(shared(source(num_samples=4, has_document_starts=True), has_document_starts=True))
    assert len(received) == 2
