"""Everything that rank 0 writes of a run's steps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from megatron.seq1f1b.config import LoggingOptions
from megatron.seq1f1b.training.console import say
from megatron.seq1f1b.training.metrics import StepMetrics
from megatron.seq1f1b.training.reporting.progress import History, Progress
from megatron.seq1f1b.training.reporting.writers import JsonLines, TensorBoard, WeightsAndBiases, Writer


class RunLog:
    """Takes the metrics of one step after the other; of the first process alone."""

    def __init__(
        self,
        options: LoggingOptions,
        run_dir: Path,
        *,
        configuration: Mapping[str, object],
        iteration: int,
        train_iters: int,
    ) -> None:
        """A run that goes on after `iteration`; `configuration` is what dashboards show of it."""
        rows = JsonLines(run_dir, iteration=iteration)
        self._writers: list[Writer] = [rows]
        if options.tensorboard_dir:
            self._writers.append(TensorBoard(options, iteration=iteration))
        if options.wandb_project:
            self._writers.append(
                WeightsAndBiases(options, run_dir, configuration=configuration, iteration=iteration)
            )
        self._history = History(rows.kept_rows)
        self._progress = Progress(train_iters=train_iters)
        self._interval = options.log_interval
        self._shown = {iteration + 1, train_iters}
        """The first step and the last are shown whatever the interval."""

    def record(self, metrics: StepMetrics) -> None:
        """Write a step everywhere."""
        metrics = self._history.judged(metrics)
        for writer in self._writers:
            writer.write(metrics)
        self._progress.add(metrics)
        is_due = metrics.iteration % self._interval == 0 or metrics.iteration in self._shown
        if is_due or metrics.validation_loss is not None:
            say(self._progress.line())

    def close(self) -> None:
        """End every writer."""
        for writer in self._writers:
            writer.close()
