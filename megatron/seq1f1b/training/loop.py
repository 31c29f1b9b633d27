"""The training loop: step, measure, validate, report, save, stop."""

from __future__ import annotations

import dataclasses
import statistics
import time
from pathlib import Path

from megatron.seq1f1b.errors import StepError
from megatron.seq1f1b.training.build import Trained
from megatron.seq1f1b.training.checkpoint.save import Saver
from megatron.seq1f1b.training.console import say
from megatron.seq1f1b.training.datasets import RunDatasets
from megatron.seq1f1b.training.evaluation import Validations
from megatron.seq1f1b.training.finite import check_finite
from megatron.seq1f1b.training.garbage import Garbage
from megatron.seq1f1b.training.metrics import StepMetrics, gather
from megatron.seq1f1b.training.parameters import parameter_norm
from megatron.seq1f1b.training.peers import lost_peers_named
from megatron.seq1f1b.training.prepare import Run
from megatron.seq1f1b.training.run_files import open_run
from megatron.seq1f1b.training.steps import data_iterators, make_forward_backward, train_step
from megatron.seq1f1b.training.stop import Stop, StopRequests
from megatron.seq1f1b.training.timeline import Timeline

_COMPARED_STEPS = 6
"""After so many steps, or all there are, a predicted time is compared with those after the first."""


class Loop:
    """The steps of one process from where a run stands to its end."""

    def __init__(
        self, run: Run, trained: Trained, datasets: RunDatasets, *, run_dir: Path, iteration: int = 0
    ) -> None:
        self._run = run
        self._trained = trained
        self._run_dir = run_dir
        self._first = iteration + 1
        self._forward_backward = make_forward_backward(run)
        self._timeline = Timeline(run, trained, self._forward_backward, first=self._first, run_dir=run_dir)
        is_over = iteration >= run.layout.train_iters
        self._training_data = data_iterators(
            run,
            None if is_over else datasets.train,
            consumed_samples=run.layout.batch_sizes.consumed_after(iteration),
            batch_size=run.layout.batch_sizes.at,
        )
        self._validations = Validations(run, trained, self._forward_backward, datasets, iteration=iteration)
        self._log = open_run(run, run_dir, iteration=iteration)
        self._stops = StopRequests(run.config, train_iters=run.layout.train_iters)
        folder = run.config.checkpoint.save
        self._saver = None if folder is None else Saver(run, trained, Path(folder))
        self._garbage = Garbage(run.config)
        self._compared: list[float] = []

    def train(self) -> Stop | None:
        """Every step that is left; returns why it stopped before the last one."""
        stop = None
        iterations = self._run.layout.train_iters
        for iteration in range(self._first, iterations + 1):
            with lost_peers_named(iteration):
                stop = self._iteration(iteration)
            if stop is not None:
                break
        self._close(stop)
        return stop

    def _iteration(self, iteration: int) -> Stop | None:
        """One step and what is due after it; the reason to stop there, if there is one."""
        metrics = self._step(iteration)
        if self._validations.are_due(iteration):
            self._garbage.beside_validation()
            metrics = self._validations.added_to(metrics)
            self._garbage.beside_validation()
        self._report(metrics)
        self._garbage.after_step(iteration)
        stop = self._stops.after(iteration)
        self._save_if_due(iteration, is_last=stop is not None or iteration == self._run.layout.train_iters)
        return stop

    def _close(self, stop: Stop | None) -> None:
        self._garbage.close()
        self._timeline.close()
        last = self._run.layout.train_iters if stop is None else stop.iteration
        ending = "" if stop is None else f", stopped by {stop.reason}"
        if self._log is not None:
            self._log.close()
            if stop is not None:
                stop.write(self._run_dir)
        say(f"trained {max(0, last + 1 - self._first)} steps{ending}; see {self._run_dir}")

    def _step(self, iteration: int) -> StepMetrics:
        layout = self._run.layout
        batch_size = layout.batch_sizes.of_step(iteration)
        self._timeline.before(iteration, num_microbatches=layout.num_microbatches_of(batch_size))
        started_at = time.perf_counter()
        optimizer = self._trained.optimizer
        learning_rate, loss_scale = float(optimizer.param_groups[0]["lr"]), float(optimizer.get_loss_scale())
        try:
            result = train_step(
                self._run, self._trained, self._forward_backward, self._training_data, batch_size=batch_size
            )
        except StepError as error:
            raise type(error)(f"iteration {iteration}: {error}") from error
        step_seconds = time.perf_counter() - started_at
        is_normed = self._run.config.logging.log_params_norm
        metrics = gather(
            self._run,
            result,
            iteration=iteration,
            step_seconds=step_seconds,
            learning_rate=learning_rate,
            loss_scale=loss_scale,
            param_norm=parameter_norm(self._trained) if is_normed else None,
        )
        metrics = dataclasses.replace(metrics, bubble_fraction=self._timeline.after(iteration))
        if self._run.config.training.check_for_nan_in_loss_and_grad and not self._run.config.training.fp16:
            check_finite(self._trained, metrics.lm_loss, what=f"loss of iteration {iteration}")
        return metrics

    def _save_if_due(self, iteration: int, *, is_last: bool) -> None:
        options = self._run.config.checkpoint
        if self._saver is None:
            return
        self._saver.poll()
        if is_last or (options.save_interval is not None and iteration % options.save_interval == 0):
            self._saver.save(iteration, is_last=is_last)

    def _report(self, metrics: StepMetrics) -> None:
        if self._log is not None:
            self._log.record(metrics)
        if self._run.predicted_step_seconds is not None and len(self._compared) < _COMPARED_STEPS:
            self._compare(self._run.predicted_step_seconds, metrics)

    def _compare(self, predicted_seconds: float, metrics: StepMetrics) -> None:
        """Say how a predicted step compares with the first steps of full batches."""
        if metrics.batch_size == self._run.layout.global_batch_size:
            self._compared.append(metrics.forward_backward_seconds)
        is_last = metrics.iteration == self._run.layout.train_iters and len(self._compared) > 1
        if len(self._compared) == _COMPARED_STEPS or is_last:
            say(_prediction(predicted_seconds, self._compared[1:]))


def _prediction(predicted_seconds: float, measured_seconds: list[float]) -> str:
    measured = statistics.median(measured_seconds)
    return (
        f"profiled: forward and backward of a step were predicted to take {predicted_seconds:.3f} s and take "
        f"{measured:.3f} s (median of {len(measured_seconds)} steps), predicted / measured "
        f"{predicted_seconds / measured:.2f}"
    )
