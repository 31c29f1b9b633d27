"""The training loop: join, build, say what will run, train, leave."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections import deque
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from megatron.seq1f1b.data import build_train_valid_test_datasets
from megatron.seq1f1b.data.samples import SampleDataset
from megatron.seq1f1b.partition import PROFILED
from megatron.seq1f1b.training.banner import banner
from megatron.seq1f1b.training.build import Trained, build
from megatron.seq1f1b.training.calibrate import profiled
from megatron.seq1f1b.training.distributed import join, leave
from megatron.seq1f1b.training.metrics import MetricsFile, gather
from megatron.seq1f1b.training.prepare import Run
from megatron.seq1f1b.training.samples import data_settings, sample_counts
from megatron.seq1f1b.training.steps import data_iterators, make_forward_backward, train_step
from megatron.seq1f1b.upstream import is_cpu_only


def pretrain(run: Run) -> None:
    """Train from initial weights to the last step; returns when every process is done."""
    _say("starting: joining processes and building the model")
    join(run.config, run.layout)
    try:
        trained = build(run)
        dataset = _training_data(run)
        if run.config.schedule.pipe_sp_strategy == PROFILED:
            _say("measuring the stages to choose chunk boundaries")
            run = profiled(run, trained, dataset, run_directory(run))
        _say(banner(run, num_parameters=_num_parameters(trained), device=_device_name()))
        _train(run, trained, dataset)
    finally:
        leave()


def _train(run: Run, trained: Trained, dataset: SampleDataset) -> None:
    """Every step, with its metrics on rank 0's terminal and in its file."""
    run_dir = run_directory(run)
    metrics_file = _open_run(run, run_dir) if dist.get_rank() == 0 else None
    forward_backward = make_forward_backward(run)
    iterators = data_iterators(run, dataset)
    iterations = run.config.training.train_iters
    recent: deque[float] = deque(maxlen=20)
    for iteration in range(1, iterations + 1):
        started_at = time.perf_counter()
        learning_rate = trained.optimizer.param_groups[0]["lr"]
        result = train_step(run, trained, forward_backward, iterators)
        metrics = gather(
            run,
            result,
            iteration=iteration,
            step_seconds=time.perf_counter() - started_at,
            learning_rate=float(learning_rate),
            loss_scale=float(trained.optimizer.get_loss_scale()),
        )
        recent.append(metrics.step_seconds)
        if metrics_file is not None:
            metrics_file.write(metrics)
        if iteration == _COMPARED_STEPS and run.predicted_step_seconds is not None:
            _say(_prediction(run.predicted_step_seconds, list(recent)[1:]))
        if iteration % run.config.training.log_interval == 0 or iteration in (1, iterations):
            remaining = (iterations - iteration) * sum(recent) / len(recent)
            _say(metrics.to_line(train_iters=iterations, remaining_seconds=remaining))
    if metrics_file is not None:
        metrics_file.close()
        _say(f"trained {iterations} steps; see {run_dir}")


_COMPARED_STEPS = 6
"""After so many steps a predicted step time is compared with those after the first."""


def _prediction(predicted_seconds: float, step_seconds: list[float]) -> str:
    measured = statistics.median(step_seconds)
    return (
        f"profiled: a step was predicted to take {predicted_seconds:.3f} s (forward and backward) and "
        f"takes {measured:.3f} s (optimizer included), {measured / predicted_seconds:.2f} of it"
    )


def run_directory(run: Run) -> Path:
    """`--run-dir`, or a new folder below runs/ named by the time."""
    asked = run.config.run.run_dir
    if asked is not None:
        return Path(asked)
    stamp = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{run.layout.schedule}-{stamp}"


def _open_run(run: Run, run_dir: Path) -> MetricsFile:
    """The run's folder with its resolved configuration; rank 0 only."""
    run_dir.mkdir(parents=True, exist_ok=True)
    resolved = {
        "options": asdict(run.config),
        "layout": asdict(run.layout),
        "boundaries": list(run.boundaries),
        "dimensions": asdict(run.dimensions),
    }
    (run_dir / "config.json").write_text(json.dumps(resolved, indent=2) + "\n", encoding="utf-8")
    return MetricsFile(run_dir)


def _training_data(run: Run) -> SampleDataset:
    counts = sample_counts(run.config, run.layout)
    settings = data_settings(run.config, run.tokenizer)
    datasets = build_train_valid_test_datasets(settings, train_samples=counts.train)
    assert datasets.train is not None, "a run with training samples has a training dataset"
    return datasets.train


def _num_parameters(trained: Trained) -> int:
    """Parameters of the whole model, a tied embedding counted once, padding included."""
    count = 0
    for part in trained.parts:
        for parameter in part.parameters():
            is_copy = getattr(parameter, "shared", False)
            is_sharded = getattr(parameter, "tensor_model_parallel", False)
            if not is_copy and (is_sharded or parallel_state.get_tensor_model_parallel_rank() == 0):
                count += parameter.numel()
    total = torch.tensor(count, dtype=torch.long, device=torch.cuda.current_device())
    dist.all_reduce(total, group=parallel_state.get_model_parallel_group())
    return int(total)


def _device_name() -> str:
    return "CPU" if is_cpu_only() else torch.cuda.get_device_name()


def _say(text: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(text, flush=True)
