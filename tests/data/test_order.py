"""Which samples make a step must not depend on who reads them."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron.seq1f1b.data.order import DataloaderType, microbatch_indices
from megatron.seq1f1b.errors import ConfigurationError, DataError


def steps(
    *,
    num_samples: int,
    micro_batch_size: int,
    data_parallel_size: int,
    num_microbatches: int,
    consumed_samples: int,
    kind: DataloaderType,
    num_steps: int,
) -> list[list[int]]:
    """The samples of each step, gathered over all data-parallel ranks."""
    gathered: list[list[int]] = [[] for _ in range(num_steps)]
    for rank in range(data_parallel_size):
        indices = microbatch_indices(
            num_samples=num_samples,
            micro_batch_size=micro_batch_size,
            data_parallel_rank=rank,
            data_parallel_size=data_parallel_size,
            global_batch_size=micro_batch_size * data_parallel_size * num_microbatches,
            consumed_samples=consumed_samples,
            dataloader_type=kind,
            seed=3,
        )
        for step in range(num_steps):
            for microbatch in islice(indices, num_microbatches):
                assert len(microbatch) == micro_batch_size
                gathered[step].extend(microbatch)
    return [sorted(samples) for samples in gathered]


@given(
    micro_batch_size=st.integers(1, 3),
    data_parallel_size=st.integers(1, 4),
    num_microbatches=st.integers(1, 4),
    consumed=st.integers(0, 30),
)
def test_single_takes_the_next_samples_each_once(
    micro_batch_size: int, data_parallel_size: int, num_microbatches: int, consumed: int
) -> None:
    batch = micro_batch_size * data_parallel_size * num_microbatches
    taken = steps(
        num_samples=consumed + 2 * batch,
        micro_batch_size=micro_batch_size,
        data_parallel_size=data_parallel_size,
        num_microbatches=num_microbatches,
        consumed_samples=consumed,
        kind=DataloaderType.SINGLE,
        num_steps=2,
    )
    assert taken == [list(range(consumed + step * batch, consumed + (step + 1) * batch)) for step in range(2)]


@given(
    consumed_batches=st.integers(0, 10), layout=st.sampled_from([(1, 1, 12), (3, 2, 2), (2, 6, 1), (1, 4, 3)])
)
def test_cyclic_steps_do_not_depend_on_the_layout(
    consumed_batches: int, layout: tuple[int, int, int]
) -> None:
    def taken(micro_batch_size: int, data_parallel_size: int, num_microbatches: int) -> list[list[int]]:
        return steps(
            num_samples=31,
            micro_batch_size=micro_batch_size,
            data_parallel_size=data_parallel_size,
            num_microbatches=num_microbatches,
            consumed_samples=12 * consumed_batches,
            kind=DataloaderType.CYCLIC,
            num_steps=4,
        )

    assert taken(*layout) == taken(12, 1, 1)


def test_cyclic_visits_each_sample_once_per_epoch_in_a_new_order() -> None:
    indices = microbatch_indices(
        num_samples=10,
        micro_batch_size=1,
        data_parallel_rank=0,
        data_parallel_size=1,
        global_batch_size=1,
        consumed_samples=0,
        dataloader_type=DataloaderType.CYCLIC,
        seed=3,
    )
    first, second = ([index for (index,) in islice(indices, 10)] for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_resuming_continues_where_the_run_stopped() -> None:
    options = {
        "num_samples": 31,
        "micro_batch_size": 2,
        "data_parallel_size": 2,
        "num_microbatches": 2,
        "kind": DataloaderType.CYCLIC,
    }
    whole = steps(consumed_samples=0, num_steps=6, **options)  # type: ignore[arg-type]
    resumed = steps(consumed_samples=8 * 3, num_steps=3, **options)  # type: ignore[arg-type]
    assert whole[3:] == resumed


def test_single_ends_before_a_step_that_cannot_be_filled() -> None:
    indices = microbatch_indices(
        num_samples=11,
        micro_batch_size=2,
        data_parallel_rank=0,
        data_parallel_size=2,
        global_batch_size=4,
        consumed_samples=0,
        dataloader_type=DataloaderType.SINGLE,
        seed=3,
    )
    assert list(indices) == [[0, 1], [4, 5]]


@pytest.mark.parametrize(
    ("num_samples", "global_batch_size", "consumed", "error", "message"),
    [
        (10, 6, 0, ConfigurationError, "--global-batch-size 6 is no multiple of --micro-batch-size 2"),
        (10, 0, 0, ConfigurationError, "--global-batch-size 0"),
        (0, 4, 0, DataError, "no samples"),
        (3, 4, 0, DataError, "holds 3 samples, 0 of them consumed"),
        (10, 4, 8, DataError, "holds 10 samples, 8 of them consumed"),
    ],
)
def test_refusals(
    num_samples: int, global_batch_size: int, consumed: int, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        next(
            microbatch_indices(
                num_samples=num_samples,
                micro_batch_size=2,
                data_parallel_rank=0,
                data_parallel_size=2,
                global_batch_size=global_batch_size,
                consumed_samples=consumed,
                dataloader_type=DataloaderType.SINGLE,
                seed=3,
            )
        )
