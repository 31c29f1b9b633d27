"""Whatever a script's forward step reads and its loss function returns, results are the stock schedule's."""

from __future__ import annotations

import pytest

from tests.api.foreign import Script, both
from tests.harness import run_distributed

ONE = [Script(step=step) for step in ("sums", "means", "crooked", "lists", "masked", "logits")]
PER_TOKEN = {"calculate_per_token_loss": True}


def test_every_kind_of_loss_function_and_batch_in_one_process() -> None:
    assert run_distributed(both, 1, ONE) == [len(ONE)]


TWO = [
    Script(pipeline=2),
    Script(pipeline=2, step="means", schedule="seq1f1b-zb"),
    Script(pipeline=2, virtual=2, microbatches=4, schedule="seq1f1b-interleaved"),
    Script(config=PER_TOKEN),
    Script(data_parallel={"use_distributed_optimizer": True}),
    Script(tensor=2, step="broadcast"),
]


def test_pipelines_data_and_tensor_parallelism_on_uneven_tokens() -> None:
    """Two stages; two data-parallel ranks with other masks; a tensor-parallel rank that reads for both."""
    assert run_distributed(both, 2, TWO) == [len(TWO)] * 2


FOUR = [
    Script(pipeline=2, step="crooked"),
    Script(pipeline=2, config=PER_TOKEN),
    Script(pipeline=2, config=PER_TOKEN, schedule="seq1f1b-zb"),
    Script(pipeline=2, tensor=2, step="broadcast"),
    Script(pipeline=4, step="means"),
]


@pytest.mark.slow
def test_pipelines_times_data_or_tensor_parallelism() -> None:
    assert run_distributed(both, 4, FOUR) == [len(FOUR)] * 4
