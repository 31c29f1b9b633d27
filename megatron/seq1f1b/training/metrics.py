"""What a step says of itself: one JSON object in metrics.jsonl, one line on the terminal.

Definitions
    lm_loss             mean cross-entropy over all tokens of the step that count, in nats
    step_seconds        wall time from the first batch to the updated weights, slowest process
    tokens_per_second   tokens of all processes per second of step time
    tflops_per_device   model FLOPs (forward and backward, causal attention, no recomputation) per
                        second and process, in 1e12
    mfu                 tflops_per_device over the device's peak; null where that is not known
    peak_memory_bytes   per stage, the worst process: allocated on CUDA, resident on CPU
    validation_loss     of a validation right after the step, as lm_loss but without updates; else null
"""

from __future__ import annotations

import json
import resource
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from megatron.seq1f1b.model.flops import training_flops_per_sequence
from megatron.seq1f1b.training.prepare import Run
from megatron.seq1f1b.training.steps import StepResult
from megatron.seq1f1b.upstream import is_cpu_only

PEAK_BF16_TFLOPS = {"A100": 312.0, "H100": 989.0, "H200": 989.0, "H800": 989.0, "B200": 2250.0}
"""Dense bf16 peak of a device by a part of its name, from the makers' data sheets."""


@dataclass(frozen=True, kw_only=True)
class StepMetrics:
    """One line of metrics.jsonl; the module says what each number means."""

    iteration: int
    consumed_samples: int
    consumed_tokens: int
    lm_loss: float
    grad_norm: float | None
    learning_rate: float
    loss_scale: float
    is_skipped: bool
    step_seconds: float
    tokens_per_second: float
    tflops_per_device: float
    mfu: float | None
    peak_memory_bytes: list[int]
    validation_loss: float | None = None

    def to_json(self) -> str:
        """One line without line feed."""
        return json.dumps(asdict(self))

    def to_line(self, *, train_iters: int, remaining_seconds: float) -> str:
        """The line on the terminal."""
        worst = max(range(len(self.peak_memory_bytes)), key=self.peak_memory_bytes.__getitem__)
        norm = "-" if self.grad_norm is None else f"{self.grad_norm:.3f}"
        parts = [
            f"step {self.iteration:>{len(str(train_iters))}}/{train_iters}",
            f"loss {self.lm_loss:.4f}",
            f"grad norm {norm}",
            f"lr {self.learning_rate:.2e}",
            f"{self.step_seconds:.2f} s",
            f"{self.tokens_per_second:,.0f} tokens/s",
            f"{self.tflops_per_device:.3g} TFLOP/s/device",
            *([] if self.mfu is None else [f"MFU {self.mfu:.1%}"]),
            f"memory {self.peak_memory_bytes[worst] / 2**30:.2f} GiB (stage {worst})",
            *([] if self.loss_scale == 1.0 else [f"loss scale {self.loss_scale:g}"]),
            *(["skipped: gradients not finite"] if self.is_skipped else []),
            *([] if self.validation_loss is None else [f"validation loss {self.validation_loss:.4f}"]),
            f"ETA {timedelta(seconds=round(remaining_seconds))}",
        ]
        return " | ".join(parts)


def gather(
    run: Run,
    result: StepResult,
    *,
    iteration: int,
    step_seconds: float,
    learning_rate: float,
    loss_scale: float,
) -> StepMetrics:
    """The step's metrics, equal on every process; one collective."""
    rows = _all_gather(
        [
            result.loss_sum if parallel_state.get_tensor_model_parallel_rank() == 0 else 0.0,
            result.num_loss_tokens if parallel_state.get_tensor_model_parallel_rank() == 0 else 0.0,
            step_seconds,
            float(parallel_state.get_pipeline_model_parallel_rank()),
            float(_peak_memory_bytes()),
        ]
    )
    loss_sum, num_loss_tokens = (sum(row[column] for row in rows) for column in (0, 1))
    seconds = max(row[2] for row in rows)
    num_stages = run.config.parallel.pipeline_model_parallel_size
    seq_length, batch = run.config.training.seq_length, run.layout.global_batch_size
    flops = batch * training_flops_per_sequence(run.dimensions, seq_length)
    tflops = flops / seconds / run.layout.world_size / 1e12
    peak = _device_peak_tflops()
    return StepMetrics(
        iteration=iteration,
        consumed_samples=iteration * batch,
        consumed_tokens=iteration * batch * seq_length,
        lm_loss=loss_sum / max(num_loss_tokens, 1.0),
        grad_norm=result.grad_norm,
        learning_rate=learning_rate,
        loss_scale=loss_scale,
        is_skipped=result.is_skipped,
        step_seconds=seconds,
        tokens_per_second=batch * seq_length / seconds,
        tflops_per_device=tflops,
        mfu=None if peak is None else tflops / peak,
        peak_memory_bytes=[
            max(int(row[4]) for row in rows if int(row[3]) == stage) for stage in range(num_stages)
        ],
    )


class MetricsFile:
    """metrics.jsonl of a run; one line per step, written at once.

    A run that resumes after `iteration` drops the rows of later steps, which it trains again, and
    whatever a process that was killed left of a row.
    """

    def __init__(self, run_dir: Path, *, iteration: int = 0) -> None:
        path = run_dir / "metrics.jsonl"
        if path.exists():
            _keep_rows(path, iteration)
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def write(self, metrics: StepMetrics) -> None:
        """Append one step."""
        self._file.write(metrics.to_json() + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _keep_rows(path: Path, iteration: int) -> None:
    """Keep the whole rows of steps up to `iteration`."""
    rows = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [row for row in rows if row.endswith("\n") and json.loads(row)["iteration"] <= iteration]
    if len(kept) < len(rows):
        path.write_text("".join(kept), encoding="utf-8")


def _all_gather(values: list[float]) -> list[list[float]]:
    own = torch.tensor(values, dtype=torch.float64, device=torch.cuda.current_device())
    rows = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(rows, own)
    return [row.tolist() for row in rows]


def _peak_memory_bytes() -> int:
    if is_cpu_only():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return torch.cuda.max_memory_allocated()


def _device_peak_tflops() -> float | None:
    if is_cpu_only():
        return None
    name = torch.cuda.get_device_name()
    return next((peak for part, peak in PEAK_BF16_TFLOPS.items() if part in name), None)
