"""Metrics as numbers with the names that they have in charts.

Where Megatron-LM writes the same number, the name is Megatron-LM's: runs of both share their charts.
"""

from __future__ import annotations

import math

from megatron.seq1f1b.training.metrics import StepMetrics

_LARGEST_EXPONENT = 20.0
"""Of a perplexity: an untrained model's is no number worth a chart."""


def scalars(metrics: StepMetrics) -> dict[str, float]:
    """Every number of a step that was measured, by the name of its chart."""
    named: dict[str, float | None] = {
        "lm loss": metrics.lm_loss,
        "load_balancing_loss": metrics.load_balancing_loss,
        "seq_load_balancing_loss": metrics.seq_load_balancing_loss,
        "z_loss": metrics.z_loss,
        **_by_layer(metrics),
        "learning-rate": metrics.learning_rate,
        "grad-norm": metrics.grad_norm,
        "params-norm": metrics.param_norm,
        "num-zeros": metrics.num_zeros_in_grad,
        "loss-scale": metrics.loss_scale,
        "batch-size": metrics.batch_size,
        "consumed-samples": metrics.consumed_samples,
        "skipped-iterations": metrics.skipped_steps,
        "loss-spikes": metrics.loss_spikes,
        "iteration-time": metrics.step_seconds,
        "forward-backward-time": metrics.forward_backward_seconds,
        "optimizer-time": metrics.optimizer_seconds,
        "data-wait-time": metrics.data_wait_seconds,
        "tokens-per-second": metrics.tokens_per_second,
        "throughput": metrics.tflops_per_device,
        "mfu": metrics.mfu,
        "bubble": metrics.bubble_fraction,
        **{f"memory/stage {stage}": size for stage, size in enumerate(metrics.peak_memory_bytes)},
        **_validation(metrics),
    }
    return {name: float(value) for name, value in named.items() if value is not None}


def _by_layer(metrics: StepMetrics) -> dict[str, float]:
    return {
        f"moe/{name}_layer_{layer}": loss
        for name, layers in (metrics.auxiliary_losses_by_layer or {}).items()
        for layer, loss in enumerate(layers)
    }


def _validation(metrics: StepMetrics) -> dict[str, float | None]:
    loss = metrics.validation_loss
    return {
        "lm loss validation": loss,
        "lm loss validation ppl": None if loss is None else math.exp(min(loss, _LARGEST_EXPONENT)),
        "lm loss test": metrics.test_loss,
        **{f"lm loss validation ({name})": each for name, each in (metrics.validation_losses or {}).items()},
    }
