"""A loss or gradient that is not a number ends the run, and says where it came from."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from megatron.seq1f1b.training import loop
from megatron.seq1f1b.training.build import Trained
from megatron.seq1f1b.training.finite import LossWatch
from tests.harness import DistributedError, run_distributed
from tests.training.runs import train

NAMED = "iteration 1: the gradient norm is nan: the loss of microbatch 0, chunk 0 .token 0. is nan on stage 1"
BASE = "--global-batch-size 2 --pipeline-model-parallel-size 2 --pipe-sp-splits 2"


def train_with_bad_weight(run_dir: str) -> None:
    """A run whose last stage's weights are spoilt before the first step."""
    make = loop.Loop.__init__

    def make_and_spoil(
        self: loop.Loop, run: object, trained: Trained, *args: object, **options: object
    ) -> None:
        make(self, run, trained, *args, **options)  # type: ignore[arg-type]
        if dist.get_rank() == 1:
            next(trained.parts[0].parameters()).data.fill_(float("nan"))

    loop.Loop.__init__ = make_and_spoil  # type: ignore[assignment, method-assign]
    train(BASE, run_dir)


def test_the_loss_is_named_by_iteration_microbatch_chunk_and_stage(tmp_path: object) -> None:
    with pytest.raises(DistributedError, match=NAMED):
        run_distributed(train_with_bad_weight, 2, str(tmp_path))


def test_the_chunk_is_that_of_the_first_token_at_fault() -> None:
    watch, losses = LossWatch(), torch.ones(2, 9)
    watch.begin((0, 4, 7, 9))
    watch.add(losses.sum(), losses)
    assert watch.first_not_finite() is None
    losses[1, 5] = float("inf")
    watch.add(losses.sum(), losses)
    assert watch.first_not_finite() == "the loss of microbatch 1, chunk 1 (token 5) is inf"
    watch.begin((0, 9))
    watch.add(losses.sum(), losses)
    assert watch.first_not_finite() == "the loss of microbatch 0 is inf"
