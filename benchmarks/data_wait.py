r"""Share of step time that a stage spends waiting for its next batch, on real prepared data.

    torchrun --standalone --nproc_per_node 4 benchmarks/data_wait.py --data-path PREFIX \
        --vocab-file vocab.json --merge-file merges.txt

`bash exp.sh` leaves such data in data/sample. The worst stage counts; the aim is under 1 %.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial

import torch
import torch.distributed as dist
from pipeline import start

from megatron.seq1f1b.config import parse_arguments
from megatron.seq1f1b.data import build_train_valid_test_datasets
from megatron.seq1f1b.training.build import build
from megatron.seq1f1b.training.distributed import join
from megatron.seq1f1b.training.prepare import prepare
from megatron.seq1f1b.training.samples import data_settings
from megatron.seq1f1b.training.steps import data_iterators, make_forward_backward, train_step


def main() -> None:
    """Train a few steps and print one JSON object on rank 0."""
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--data-path", required=True)
    options.add_argument("--vocab-file", required=True)
    options.add_argument("--merge-file", required=True)
    options.add_argument("--steps", type=int, default=5)
    arguments = options.parse_args()
    start()
    flags = (
        "--num-layers 8 --hidden-size 256 --num-attention-heads 4 --seq-length 2048 "
        "--position-embedding-type rope --micro-batch-size 1 --global-batch-size 4 --lr 1e-3 "
        f"--pipeline-model-parallel-size {dist.get_world_size()} --pipe-sp-splits 4 --split 98,2,0 "
        f"--train-iters {arguments.steps + 1}"
    ).split()
    files = ["--data-path", arguments.data_path, "--vocab-file", arguments.vocab_file]
    config = parse_arguments([*flags, *files, "--merge-file", arguments.merge_file])
    run = prepare(config, world_size=dist.get_world_size())
    join(run.config, run.layout)
    trained = build(run)
    samples = (arguments.steps + 1) * run.layout.global_batch_size
    settings = data_settings(run.config, run.tokenizer)
    dataset = build_train_valid_test_datasets(settings, train_samples=samples).train
    step = partial(train_step, run, trained, make_forward_backward(run), data_iterators(run, dataset))
    step()
    started_at = time.perf_counter()
    waited = sum(step().data_wait_seconds for _ in range(arguments.steps))
    elapsed = time.perf_counter() - started_at
    worst = torch.tensor(waited / elapsed, dtype=torch.float64)
    dist.all_reduce(worst, op=dist.ReduceOp.MAX)
    if dist.get_rank() == 0:
        result = {
            "steps": arguments.steps,
            "step_seconds": round(elapsed / arguments.steps, 3),
            "waiting_share": float(f"{worst.item():.2e}"),
        }
        print(json.dumps(result), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
