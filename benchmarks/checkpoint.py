"""What saving costs: bytes of a checkpoint, and the share of a run's time that saves take from it.

    torchrun --standalone --nproc_per_node 2 benchmarks/checkpoint.py --folder DIR

Trains the same model without saves, with saves and with `--async-save`, in turn, and prints medians: what
a save adds in seconds, as a share of one step, and of the time of all steps and the save between them;
the last shrinks as much as --save-interval grows. Saves include the checksum of every file,
whose time for all bytes of a checkpoint in one process is printed, too. DIR should be on the disk that
the run will save to.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch.distributed as dist
from pipeline import start

from megatron.seq1f1b.config import parse_arguments
from megatron.seq1f1b.training.build import build
from megatron.seq1f1b.training.checkpoint.manifest import checksum_of
from megatron.seq1f1b.training.checkpoint.save import Saver
from megatron.seq1f1b.training.datasets import read_data
from megatron.seq1f1b.training.distributed import join
from megatron.seq1f1b.training.prepare import Run, prepare
from megatron.seq1f1b.training.steps import data_iterators, make_forward_backward, train_step
from megatron.seq1f1b.upstream import is_cpu_only

MODES = ("none", "synchronous", "asynchronous")


def main() -> None:
    """Train in rounds of every mode and print one JSON object on rank 0."""
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--folder", type=Path, required=True, help="a folder is made there, and removed")
    options.add_argument("--hidden-size", type=int, default=512)
    options.add_argument("--num-layers", type=int, default=8)
    options.add_argument("--save-interval", type=int, default=5)
    options.add_argument("--rounds", type=int, default=3)
    arguments = options.parse_args()
    folder = arguments.folder / "checkpoints-of-a-benchmark"
    start()
    # Without a GPU, half precision is a hundred times slower, and steps would hide any save.
    precision = "" if is_cpu_only() else "--bf16"
    flags = (
        f"--num-layers {arguments.num_layers} --hidden-size {arguments.hidden_size} --num-attention-heads 8 "
        f"--seq-length 256 --micro-batch-size 1 --global-batch-size 2 --lr 1e-3 {precision} --mock-data "
        "--tokenizer-type NullTokenizer --vocab-size 8191 --pipe-sp-splits 2 --num-workers 0 "
        f"--pipeline-model-parallel-size {dist.get_world_size()} --save {folder} --keep-latest 1 "
        f"--train-iters {3 * arguments.rounds * arguments.save_interval + 1}"
    )
    run = prepare(parse_arguments(flags.split()), world_size=dist.get_world_size())
    join(run.config, run.layout)
    measured = measure(run, interval=arguments.save_interval, rounds=arguments.rounds)
    if dist.get_rank() == 0:
        print(json.dumps(measured, indent=2))
        shutil.rmtree(folder)


def measure(run: Run, *, interval: int, rounds: int) -> dict[str, object]:
    """Medians over rounds, each of `interval` steps and the save that follows them."""
    trained = build(run)
    forward_backward = make_forward_backward(run)
    batches = data_iterators(run, read_data(run).train)
    size = run.layout.global_batch_size
    train_step(run, trained, forward_backward, batches, batch_size=size)
    root = Path(str(run.config.checkpoint.save))
    seconds: dict[str, list[float]] = {mode: [] for mode in MODES}
    for number in range(rounds):
        for mode in MODES:
            options = replace(run.config.checkpoint, async_save=mode == "asynchronous")
            saver = Saver(replace(run, config=replace(run.config, checkpoint=options)), trained, root)
            dist.barrier()
            started_at = time.perf_counter()
            if mode != "none":
                saver.save(number + 1, is_last=False)
            for _ in range(interval):
                train_step(run, trained, forward_backward, batches, batch_size=size)
                saver.poll()
            saver.finish()
            dist.barrier()
            seconds[mode].append(time.perf_counter() - started_at)
    medians = {mode: statistics.median(times) for mode, times in seconds.items()}
    whole = medians["none"]
    files = [path for path in root.rglob("*") if path.is_file()]
    started_at = time.perf_counter()
    for path in files:
        checksum_of(path)
    checksum_seconds = time.perf_counter() - started_at
    return {
        "checkpoint_bytes": sum(path.stat().st_size for path in files),
        "checksum_seconds_of_one_process": round(checksum_seconds, 4),
        "steps_between_saves": interval,
        "step_seconds": round(whole / interval, 4),
        **{
            mode: {
                "seconds_per_save": round(medians[mode] - whole, 4),
                "share_of_a_step": round((medians[mode] - whole) * interval / whole, 4),
                "share_of_time": round(max(0.0, 1 - whole / medians[mode]), 4),
            }
            for mode in MODES[1:]
        },
    }


if __name__ == "__main__":
    main()
