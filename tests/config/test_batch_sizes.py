"""Samples per step while they grow: those that Megatron-Core counts."""

from __future__ import annotations

import pytest
from megatron.core.num_microbatches_calculator import RampupBatchsizeNumMicroBatchesCalculator

from megatron.seq1f1b.config import parse_arguments, validate
from megatron.seq1f1b.config.batch_sizes import BatchSizes
from megatron.seq1f1b.errors import ConfigurationError
from tests.config.flags import SMALL

IN_SAMPLES = SMALL.replace("--train-iters 4", "--train-samples 400")
INTERLEAVED = "--pipe-sp-splits 1 --pipeline-schedule interleaved --num-virtual-stages-per-pipeline-rank 2"
RAMPUPS = [(8, 8, 96, 32), (16, 8, 300, 1024), (2, 3, 1, 11), (1, 1, 97, 8), (4, 4, 10, 8), (6, 2, 333, 12)]


@pytest.mark.parametrize(("start", "increment", "samples", "full"), RAMPUPS)
def test_every_step_has_the_size_that_megatron_core_counts(
    start: int, increment: int, samples: int, full: int
) -> None:
    ours = BatchSizes(full=full, start=start, increment=increment, rampup_samples=samples)
    theirs = RampupBatchsizeNumMicroBatchesCalculator(full, 1, 1, False, 1, start, increment, samples)
    consumed = 0
    for step in range(1, 400):
        theirs.update(consumed, consistency_check=True)
        assert ours.at(consumed) == theirs.get_current_global_batch_size() == ours.of_step(step)
        assert ours.whole_steps_in(consumed) == step - 1
        assert ours.whole_steps_in(consumed + 1) == (step if ours.of_step(step) == 1 else step - 1)
        consumed += theirs.get_current_global_batch_size()
        assert ours.consumed_after(step) == consumed


def test_sizes_are_all_that_occur() -> None:
    sizes = BatchSizes(full=32, start=8, increment=8, rampup_samples=96)
    assert sizes.sizes == [8, 16, 24, 32] == sorted({sizes.of_step(step) for step in range(1, 20)})
    assert BatchSizes(full=8, start=8).sizes == [8]


def test_steps_of_a_run_as_megatron_counts_them() -> None:
    """Through the growth one by one, then whole full batches: the rest is left out."""
    layout = validate(parse_arguments(f"{IN_SAMPLES} --rampup-batch-size 4 2 20".split()), world_size=2)
    # 4 4 4 (12) 6 6 (24 > 20), then 8 each: (400 - 24) // 8 = 47
    assert [layout.batch_sizes.of_step(step) for step in range(1, 8)] == [4, 4, 4, 6, 6, 8, 8]
    assert layout.train_iters == 5 + 47
    assert layout.num_microbatches_of(6) == 6


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("--rampup-batch-size 4 2", "must be three numbers from 1 up"),
        ("--rampup-batch-size 4 2 0", "must be three numbers from 1 up"),
        ("--rampup-batch-size 4 3 100", "in steps of 3 to --global-batch-size 8"),
        ("--rampup-batch-size 8 4 100", "lead from 8 in steps of 4 to --global-batch-size 8"),
        ("--rampup-batch-size 3 5 100 --micro-batch-size 2", "a global batch of 3 is not divisible"),
        ("--rampup-batch-size 4 2 100 --micro-batch-size 4", "a global batch of 6 is not divisible"),
        ("--rampup-batch-size 4 x 100", "invalid int value: 'x'"),
        (f"--rampup-batch-size 5 3 50 {INTERLEAVED}", "--rampup-batch-size 5 3 50"),
    ],
)
def test_refused_growth(extra: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        validate(parse_arguments(f"{IN_SAMPLES} {extra}".split()), world_size=2)
    assert message in str(refusal.value)


def test_growth_goes_with_samples() -> None:
    with pytest.raises(ConfigurationError, match="--train-samples instead of --train-iters"):
        validate(parse_arguments(f"{SMALL} --rampup-batch-size 4 2 20".split()), world_size=2)
