"""Validation: forwards alone, through the schedule that trains.

As in Megatron-LM, every validation reads the next `--eval-iters` global batches of the validation
samples, so that a run as a whole sees more of them; the n-th validation of a run always reads the
same samples, under any layout and after any resume. The loss is the mean over all tokens that
count, so it depends on neither the schedule nor the number of chunks. With
`--multiple-validation-sets` each set has a loss, over as many batches of its own.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from megatron.seq1f1b.training.build import Trained
from megatron.seq1f1b.training.datasets import RunDatasets
from megatron.seq1f1b.training.metrics import StepMetrics
from megatron.seq1f1b.training.prepare import Run
from megatron.seq1f1b.training.samples import sample_counts
from megatron.seq1f1b.training.steps import (
    ForwardBackward,
    data_iterators,
    forward_backward_of_step,
    log_totals,
)

Iterators = Sequence[Iterator[Mapping[str, torch.Tensor]] | None]


class Validations:
    """The validations of a run that goes on after `iteration`, and its test after the last step."""

    def __init__(
        self,
        run: Run,
        trained: Trained,
        forward_backward: ForwardBackward,
        datasets: RunDatasets,
        *,
        iteration: int,
    ) -> None:
        self._run = run
        self._trained = trained
        self._forward_backward = forward_backward
        consumed = consumed_validation_samples(run, iteration)
        is_over = consumed >= sample_counts(run.config, run.layout).valid
        self._sets = {
            name: data_iterators(run, None if is_over else dataset, consumed_samples=consumed)
            for name, dataset in datasets.validation.items()
        }
        self._test = None if datasets.test is None else data_iterators(run, datasets.test)

    def are_due(self, iteration: int) -> bool:
        """Whether a validation or the test follows the step."""
        return self._is_validated_after(iteration) or self._is_tested_after(iteration)

    def added_to(self, metrics: StepMetrics) -> StepMetrics:
        """A step's metrics with the losses that are due after it."""
        if self._is_validated_after(metrics.iteration):
            losses = {name: self._loss(iterators) for name, iterators in self._sets.items()}
            metrics = dataclasses.replace(
                metrics,
                validation_loss=statistics.fmean(losses.values()),
                validation_losses=losses if len(losses) > 1 else None,
            )
        if self._is_tested_after(metrics.iteration):
            assert self._test is not None
            metrics = dataclasses.replace(metrics, test_loss=self._loss(self._test))
        return metrics

    def _is_validated_after(self, iteration: int) -> bool:
        training = self._run.config.training
        return training.eval_iters > 0 and iteration % training.eval_interval == 0

    def _is_tested_after(self, iteration: int) -> bool:
        return self._test is not None and iteration == self._run.layout.train_iters

    def _loss(self, iterators: Iterators) -> float:
        return evaluate(self._run, self._trained, self._forward_backward, iterators)


def consumed_validation_samples(run: Run, iteration: int) -> int:
    """Samples of each set that the validations up to and after `iteration` steps have read."""
    training = run.config.training
    return iteration // training.eval_interval * training.eval_iters * run.layout.global_batch_size


def evaluate(run: Run, trained: Trained, forward_backward: ForwardBackward, iterators: Iterators) -> float:
    """Mean loss over the next `--eval-iters` global batches, equal on every process."""
    totals = torch.zeros(2, dtype=torch.float64)
    for part in trained.parts:
        part.eval()
    try:
        with torch.no_grad():
            for _ in range(run.config.training.eval_iters):
                logs = forward_backward_of_step(run, trained, forward_backward, iterators, forward_only=True)
                totals += torch.tensor(log_totals(logs), dtype=torch.float64)
    finally:
        for part in trained.parts:
            part.train()
    if parallel_state.get_tensor_model_parallel_rank() != 0:
        totals.zero_()
    totals = totals.to(torch.device(torch.cuda.current_device()))
    dist.all_reduce(totals)
    loss_sum, num_loss_tokens = totals.tolist()
    return loss_sum / max(num_loss_tokens, 1.0)
