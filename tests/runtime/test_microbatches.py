"""Which batch of the caller's data iterator a forward step gets."""

from __future__ import annotations

import pytest

from megatron.seq1f1b.errors import DataError, StepError
from megatron.seq1f1b.runtime.microbatches import Microbatches


def read(microbatches: Microbatches, microbatch: int, chunk: int) -> str:
    reader = microbatches.reader(microbatch, chunk)
    assert reader is not None
    return next(reader)


def test_the_nth_batch_is_microbatch_n_in_whatever_order_they_start() -> None:
    microbatches = Microbatches(iter("abcd"), starts=[2, 0, 1], num_chunks=2)
    asked = [(2, 0), (0, 0), (2, 1), (1, 0), (1, 1), (0, 1)]
    assert [read(microbatches, *each) for each in asked] == list("cacbba")


def test_a_step_takes_its_own_batches_alone() -> None:
    batches = iter("abcd")
    microbatches = Microbatches(batches, starts=[2, 0, 1], num_chunks=1)
    for microbatch in (2, 0, 1):
        read(microbatches, microbatch, 0)
    assert list(batches) == ["d"]


def test_a_forward_step_that_skips_a_microbatch_is_refused() -> None:
    microbatches = Microbatches(iter("abc"), starts=[2, 0, 1], num_chunks=1)
    read(microbatches, 2, 0)
    with pytest.raises(StepError, match="microbatch 1 is wanted, but 0, which starts before it, has not"):
        read(microbatches, 1, 0)


def test_an_iterator_that_ends_is_named_with_the_numbers() -> None:
    microbatches = Microbatches(iter("ab"), starts=[2, 0, 1], num_chunks=1)
    with pytest.raises(DataError, match="ended after 2 of the 3 microbatches"):
        read(microbatches, 2, 0)
