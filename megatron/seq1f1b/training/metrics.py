"""What a step says of itself: one JSON object in metrics.jsonl.

Definitions
    consumed_samples    samples that all steps up to this one have taken; consumed_tokens likewise
    batch_size          samples of this step over all processes
    lm_loss             mean cross-entropy over all tokens of the step that count, in nats
    load_balancing_loss, seq_load_balancing_loss, z_loss
                        auxiliary losses of experts' routers without their coefficients, means over
                        layers and the step's sequences or tokens; null where there is none
    auxiliary_losses_by_layer
                        the same of every layer, by name; null without --moe-per-layer-logging
    grad_norm           L2 norm of all gradients before clipping
    param_norm          L2 norm of all parameters after the step; null without --log-params-norm
    num_zeros_in_grad   gradients that are zero; null without --log-num-zeros-in-grad
    is_skipped          whether the update was left out because gradients were not finite
    is_spike            whether the loss is more than 6 standard deviations above the mean of up to 128
                        steps before it
    skipped_steps       steps of the run so far that were skipped; loss_spikes likewise
    step_seconds        wall time from the first batch to the updated weights, slowest process
    forward_backward_seconds, optimizer_seconds
                        its two phases, each of the process slowest in it; device time on CUDA
    data_wait_seconds   part of the first phase in which the host waited for batches, slowest process
    tokens_per_second   tokens of all processes per second of step time
    tflops_per_device   model FLOPs (forward and backward, causal attention, no recomputation) per
                        second and process, in 1e12
    mfu                 tflops_per_device over the device's peak; null where that is not known
    bubble_fraction     share of the step in which stages computed nothing, mean over stages; null
                        where it was not measured
    peak_memory_bytes   per stage, the worst process: allocated on CUDA, resident on CPU
    validation_loss     of a validation right after the step, as lm_loss but without updates, the mean
                        over the validation sets; else null
    validation_losses   by validation set, where there are several; else null
    test_loss           after the last step, on --test-data-path; else null
"""

from __future__ import annotations

import json
import resource
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import fmean

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from megatron.seq1f1b.model.flops import training_flops_per_sequence
from megatron.seq1f1b.training.prepare import Run
from megatron.seq1f1b.training.steps import StepResult
from megatron.seq1f1b.upstream import is_cpu_only
from megatron.seq1f1b.upstream.auxiliary_losses import LOGGED

Gathered = dict[str, list[float]]
"""A figure by name, of every process."""

PEAK_BF16_TFLOPS = {"A100": 312.0, "H100": 989.0, "H200": 989.0, "H800": 989.0, "B200": 2250.0}
"""Dense bf16 peak of a device by a part of its name, from the makers' data sheets."""


@dataclass(frozen=True, kw_only=True)
class StepMetrics:
    """One line of metrics.jsonl; the module says what each number means."""

    iteration: int
    consumed_samples: int
    consumed_tokens: int
    batch_size: int
    lm_loss: float
    load_balancing_loss: float | None = None
    seq_load_balancing_loss: float | None = None
    z_loss: float | None = None
    auxiliary_losses_by_layer: dict[str, list[float]] | None = None
    grad_norm: float | None
    param_norm: float | None
    num_zeros_in_grad: int | None
    learning_rate: float
    loss_scale: float
    is_skipped: bool
    is_spike: bool = False
    skipped_steps: int = 0
    loss_spikes: int = 0
    step_seconds: float
    forward_backward_seconds: float
    optimizer_seconds: float
    data_wait_seconds: float
    tokens_per_second: float
    tflops_per_device: float
    mfu: float | None
    bubble_fraction: float | None = None
    peak_memory_bytes: list[int]
    validation_loss: float | None = None
    validation_losses: dict[str, float] | None = None
    test_loss: float | None = None

    def to_json(self) -> str:
        """One line without line feed."""
        return json.dumps(asdict(self))


def gather(
    run: Run,
    result: StepResult,
    *,
    iteration: int,
    step_seconds: float,
    learning_rate: float,
    loss_scale: float,
    param_norm: float | None = None,
) -> StepMetrics:
    """The step's metrics, equal on every process but for the counts over steps; one collective."""
    gathered = _all_gather(_own(run, result, step_seconds))
    seconds = max(gathered["step_seconds"])
    seq_length, consumed = run.config.training.seq_length, run.layout.batch_sizes.consumed_after
    batch = consumed(iteration) - consumed(iteration - 1)
    flops = batch * training_flops_per_sequence(run.dimensions, seq_length)
    tflops = flops / seconds / run.layout.world_size / 1e12
    peak = _device_peak_tflops()
    by_layer = _auxiliary_losses(run, gathered)
    auxiliary = {name: None if layers is None else fmean(layers) for name, layers in by_layer.items()}
    return StepMetrics(
        iteration=iteration,
        consumed_samples=consumed(iteration),
        consumed_tokens=consumed(iteration) * seq_length,
        batch_size=batch,
        lm_loss=sum(gathered["loss_sum"]) / max(sum(gathered["num_loss_tokens"]), 1.0),
        load_balancing_loss=auxiliary["load_balancing_loss"],
        seq_load_balancing_loss=auxiliary["seq_load_balancing_loss"],
        z_loss=auxiliary["z_loss"],
        auxiliary_losses_by_layer=_logged_by_layer(run, by_layer),
        grad_norm=result.grad_norm,
        param_norm=param_norm,
        num_zeros_in_grad=result.num_zeros_in_grad,
        learning_rate=learning_rate,
        loss_scale=loss_scale,
        is_skipped=result.is_skipped,
        step_seconds=seconds,
        forward_backward_seconds=max(gathered["forward_backward_seconds"]),
        optimizer_seconds=max(gathered["optimizer_seconds"]),
        data_wait_seconds=max(gathered["data_wait_seconds"]),
        tokens_per_second=batch * seq_length / seconds,
        tflops_per_device=tflops,
        mfu=None if peak is None else tflops / peak,
        peak_memory_bytes=_by_stage(run, gathered),
    )


def _own_auxiliary_losses(run: Run, result: StepResult) -> dict[str, float]:
    """What this process adds to each layer's; nothing where there are no experts."""
    if run.config.experts.num_experts is None:
        return {}
    nothing = [0.0] * run.config.model.num_layers
    return {
        f"{name} {layer}": loss
        for name in LOGGED
        for layer, loss in enumerate(result.auxiliary_losses.get(name, nothing))
    }


def _own(run: Run, result: StepResult, step_seconds: float) -> dict[str, float]:
    """This process's figures; tensor-parallel ranks have the same losses, and one counts."""
    is_counted = parallel_state.get_tensor_model_parallel_rank() == 0
    return {
        "loss_sum": result.loss_sum if is_counted else 0.0,
        "num_loss_tokens": result.num_loss_tokens if is_counted else 0.0,
        "step_seconds": step_seconds,
        "forward_backward_seconds": result.forward_backward_seconds,
        "optimizer_seconds": result.optimizer_seconds,
        "data_wait_seconds": result.data_wait_seconds,
        **_own_auxiliary_losses(run, result),
        "stage": parallel_state.get_pipeline_model_parallel_rank(),
        "peak_memory_bytes": _peak_memory_bytes(),
    }


def _auxiliary_losses(run: Run, gathered: Gathered) -> dict[str, list[float] | None]:
    """Of every layer, by name; None where the run has no such loss."""
    experts = run.config.experts
    kind = experts.moe_router_load_balancing_type if experts.moe_aux_loss_coeff > 0 else "none"
    has_loss = {
        "load_balancing_loss": kind == "aux_loss",
        "seq_load_balancing_loss": kind == "seq_aux_loss",
        "z_loss": experts.moe_z_loss_coeff is not None,
    }
    layers = range(run.config.model.num_layers)
    return {
        name: [sum(gathered[f"{name} {layer}"]) for layer in layers] if has_loss[name] else None
        for name in LOGGED
    }


def _logged_by_layer(run: Run, by_layer: Mapping[str, list[float] | None]) -> dict[str, list[float]] | None:
    """Of the losses that the run has; None without --moe-per-layer-logging."""
    if not run.config.experts.moe_per_layer_logging:
        return None
    return {name: layers for name, layers in by_layer.items() if layers is not None}


def _by_stage(run: Run, gathered: Gathered) -> list[int]:
    """The largest peak on each pipeline stage."""
    peaks = [0] * run.config.parallel.pipeline_model_parallel_size
    for stage, peak in zip(gathered["stage"], gathered["peak_memory_bytes"], strict=True):
        peaks[int(stage)] = max(peaks[int(stage)], int(peak))
    return peaks


def _all_gather(values: Mapping[str, float]) -> Gathered:
    own = torch.tensor(list(values.values()), dtype=torch.float64, device=torch.cuda.current_device())
    rows = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(rows, own)
    return dict(zip(values, torch.stack(rows, dim=1).tolist(), strict=True))


def _peak_memory_bytes() -> int:
    if is_cpu_only():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return torch.cuda.max_memory_allocated()


def _device_peak_tflops() -> float | None:
    if is_cpu_only():
        return None
    name = torch.cuda.get_device_name()
    return next((peak for part, peak in PEAK_BF16_TFLOPS.items() if part in name), None)
