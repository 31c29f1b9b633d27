"""A run from start to end: join, build, say what will run, train, leave."""

from __future__ import annotations

import torch

from megatron.seq1f1b.training.attention import attention_of
from megatron.seq1f1b.training.banner import banner
from megatron.seq1f1b.training.build import build
from megatron.seq1f1b.training.calibrate import profiled
from megatron.seq1f1b.training.checkpoint.load import load_start
from megatron.seq1f1b.training.checkpoint.start import Start
from megatron.seq1f1b.training.console import say
from megatron.seq1f1b.training.datasets import read_data
from megatron.seq1f1b.training.distributed import join, leave
from megatron.seq1f1b.training.loop import Loop
from megatron.seq1f1b.training.parameters import num_parameters
from megatron.seq1f1b.training.parity_check import check_parity
from megatron.seq1f1b.training.prepare import Run
from megatron.seq1f1b.training.run_files import run_directory
from megatron.seq1f1b.upstream import is_cpu_only


def pretrain(run: Run, start: Start | None = None) -> None:
    """Train from where the run stands to the last step; returns when every process is done."""
    attention = attention_of(run)
    say("starting: joining processes and building the model")
    join(run.config, run.layout)
    try:
        run_dir = run_directory(run)
        trained = build(run)
        datasets = read_data(run)
        run = profiled(run, trained, datasets.train, run_dir)
        parameters, device = num_parameters(trained), _device_name()
        say(
            banner(
                run,
                num_parameters=parameters,
                device=device,
                optimizer=trained.optimizer_text,
                attention=attention,
            )
        )
        iteration = load_start(run, trained, start)
        check_parity(run, trained, datasets.train, iteration=iteration)
        Loop(run, trained, datasets, run_dir=run_dir, iteration=iteration).train()
    finally:
        leave()


def _device_name() -> str:
    return "CPU" if is_cpu_only() else torch.cuda.get_device_name()
