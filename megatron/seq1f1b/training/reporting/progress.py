"""What follows from several steps: counts of what went wrong, and the line on the terminal."""

from __future__ import annotations

import dataclasses
import statistics
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta

from megatron.seq1f1b.training.metrics import StepMetrics

_REMEMBERED = 128
_FEWEST = 16
"""Steps that must have gone before: the mean of a few says nothing, and the first losses fall steeply."""
_DEVIATIONS = 6.0


class History:
    """Skipped steps and loss spikes of a run so far."""

    def __init__(self, rows: Iterable[Mapping[str, object]] = ()) -> None:
        """`rows` of metrics.jsonl stand for the steps before a run was resumed."""
        self._losses: deque[float] = deque(maxlen=_REMEMBERED)
        self._skipped = 0
        self._spikes = 0
        for row in rows:
            self._skipped += bool(row.get("is_skipped"))
            self._spikes += bool(row.get("is_spike"))
            self._losses.append(float(str(row["lm_loss"])))

    def judged(self, metrics: StepMetrics) -> StepMetrics:
        """The next step's metrics with what only its predecessors can tell."""
        is_spike = self._is_spike(metrics.lm_loss)
        self._losses.append(metrics.lm_loss)
        self._skipped += metrics.is_skipped
        self._spikes += is_spike
        return dataclasses.replace(
            metrics, is_spike=is_spike, skipped_steps=self._skipped, loss_spikes=self._spikes
        )

    def _is_spike(self, loss: float) -> bool:
        if len(self._losses) < _FEWEST:
            return False
        limit = statistics.fmean(self._losses) + _DEVIATIONS * statistics.pstdev(self._losses)
        return not loss <= limit


class Progress:
    """The line on the terminal: means over the steps since the last line, and how long the rest takes."""

    def __init__(self, *, train_iters: int) -> None:
        self._train_iters = train_iters
        self._since: list[StepMetrics] = []
        self._seconds: deque[float] = deque(maxlen=20)

    def add(self, metrics: StepMetrics) -> None:
        """A step that the next line is about."""
        self._since.append(metrics)
        self._seconds.append(metrics.step_seconds)

    def line(self) -> str:
        """The line about the steps since the last one."""
        steps, self._since = self._since, []
        last, seconds = steps[-1], sum(step.step_seconds for step in steps)
        worst = max(range(len(last.peak_memory_bytes)), key=last.peak_memory_bytes.__getitem__)
        flops = sum(step.tflops_per_device * step.step_seconds for step in steps) / seconds
        remaining = (self._train_iters - last.iteration) * statistics.fmean(self._seconds)
        parts = [
            f"step {last.iteration:>{len(str(self._train_iters))}}/{self._train_iters}",
            f"loss {statistics.fmean(step.lm_loss for step in steps):.4f}",
            *_auxiliary_losses(steps),
            "grad norm -" if last.grad_norm is None else f"grad norm {last.grad_norm:.3f}",
            *([] if last.param_norm is None else [f"param norm {last.param_norm:.3f}"]),
            *([] if last.num_zeros_in_grad is None else [f"zero grads {last.num_zeros_in_grad:,}"]),
            f"lr {last.learning_rate:.2e}",
            f"{seconds / len(steps):.2f} s",
            f"{sum(step.tokens_per_second * step.step_seconds for step in steps) / seconds:,.0f} tokens/s",
            f"{flops:.3g} TFLOP/s/device",
            *([] if last.mfu is None else [f"MFU {flops * last.mfu / last.tflops_per_device:.1%}"]),
            f"memory {last.peak_memory_bytes[worst] / 2**30:.2f} GiB (stage {worst})",
            *([] if last.loss_scale == 1.0 else [f"loss scale {last.loss_scale:g}"]),
            *_trouble(steps),
            *([] if last.validation_loss is None else [f"validation loss {_validation(last)}"]),
            *([] if last.test_loss is None else [f"test loss {last.test_loss:.4f}"]),
            f"ETA {timedelta(seconds=round(remaining))}",
        ]
        return " | ".join(parts)


def _auxiliary_losses(steps: Sequence[StepMetrics]) -> list[str]:
    """Means over the steps of the losses of experts' routers."""
    named = {
        "load balancing": [step.load_balancing_loss for step in steps],
        "load balancing by sequence": [step.seq_load_balancing_loss for step in steps],
        "z-loss": [step.z_loss for step in steps],
    }
    means = {name: [value for value in values if value is not None] for name, values in named.items()}
    return [f"{name} {statistics.fmean(values):.4f}" for name, values in means.items() if values]


def _trouble(steps: Sequence[StepMetrics]) -> list[str]:
    """Steps since the last line that were skipped or had a spike, and all of the run."""
    last = steps[-1]
    skipped, spikes = sum(step.is_skipped for step in steps), sum(step.is_spike for step in steps)
    return [
        *([f"skipped {skipped} (gradients not finite), {last.skipped_steps} in all"] if skipped else []),
        *([f"loss spikes {spikes}, {last.loss_spikes} in all"] if spikes else []),
    ]


def _validation(metrics: StepMetrics) -> str:
    by_set = metrics.validation_losses or {}
    names = ", ".join(f"{name} {loss:.4f}" for name, loss in by_set.items())
    return f"{metrics.validation_loss:.4f}{f' ({names})' if names else ''}"
