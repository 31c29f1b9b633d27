"""How long a dry run takes, how much memory, and how far from it the closed form is.

    python benchmarks/dry_run.py
    python benchmarks/dry_run.py --longest

By default the model of 30 billion parameters on 64 GPUs: tensor parallelism 8 with sequence
parallelism, 8 stages, 16 microbatches of one sequence of 64K tokens in 4 chunks, no recomputation.
Flags of pretrain_gpt.py behind `--` change the run. Prints one JSON object: seconds of the command as
its user starts it (one process per processor) and of all its processes together, the memory of the
largest of them, the worst stage's peak, and the largest relative difference of a stage's closed form
from it. --longest prints for each schedule the longest sequence, in K tokens, whose closed form stays
below --memory-gb, with what the dry run says of it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from megatron.seq1f1b.config import parse_arguments
from megatron.seq1f1b.planning.from_run import estimate_run
from megatron.seq1f1b.training.dry_run import world_size_of
from megatron.seq1f1b.training.prepare import prepare

MODEL = shlex.split(
    "--num-layers 64 --hidden-size 6144 --num-attention-heads 64 --position-embedding-type rope "
    "--untie-embeddings-and-output-weights --bf16 --seq-length 65536 --micro-batch-size 1 "
    "--global-batch-size 16 --train-iters 1 --lr 1e-4 --mock-data --tokenizer-type NullTokenizer "
    "--vocab-size 50256 --tensor-model-parallel-size 8 --sequence-parallel "
    "--pipeline-model-parallel-size 8 --pipe-sp-splits 4 --world-size 64"
)
VIRTUAL = ("--num-virtual-stages-per-pipeline-rank", "2")
SCHEDULES = {
    "1f1b": ("--pipe-sp-splits", "1"),
    "interleaved": ("--pipe-sp-splits", "1", *VIRTUAL),
    "seq1f1b": (),
    "seq1f1b-interleaved": VIRTUAL,
    "seq1f1b-zb": ("--pipeline-schedule", "seq1f1b-zb"),
}
STEP = 1024


def estimated(flags: list[str]) -> dict[str, int]:
    """Peak bytes by stage, in closed form."""
    config = parse_arguments([*flags, "--dry-run"])
    report = estimate_run(prepare(config, world_size=world_size_of(config, os.environ)))
    return {str(stage.stage): report.peak_bytes(stage) for stage in report.stages}


def dry_run(flags: list[str]) -> dict[str, object]:
    """What the command says and what it takes."""
    command = [sys.executable, str(ROOT / "pretrain_gpt.py"), *flags, "--dry-run", "--format", "json"]
    started_at, before = time.perf_counter(), _processor_seconds()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    seconds = time.perf_counter() - started_at
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    stages = json.loads(done.stdout)["stages"]
    peaks = {str(stage["stage"]): stage["peak_bytes"] for stage in stages}
    closed = estimated(flags)
    worst = max(stages, key=lambda stage: stage["peak_bytes"])
    return {
        "seconds": round(seconds, 1),
        "processor_seconds": round(_processor_seconds() - before, 1),
        "processors": len(os.sched_getaffinity(0)),
        "largest_process_gb": round(largest / 1e9, 2),
        "worst_stage": worst["stage"],
        "peak_action": worst["peak_action"],
        "peak_gb": round(worst["peak_bytes"] / 1e9, 2),
        "estimated_gb": round(max(closed.values()) / 1e9, 2),
        "estimate_off_by": round(max(abs(closed[stage] / peaks[stage] - 1) for stage in peaks), 4),
    }


def _processor_seconds() -> float:
    """Of all processes that this one has started and that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime


def longest(flags: list[str], *, memory_gb: float) -> int:
    """The longest sequence whose worst stage fits, a multiple of 1024 tokens; 0 for none.

    Peaks grow almost in a straight line with the length, so that is where the next guess lies.
    """

    def room(steps: int) -> float:
        return memory_gb * 1e9 - max(estimated([*flags, "--seq-length", str(steps * STEP)]).values())

    fits, too_long = 1, 1024
    left, over = room(fits), -room(too_long)
    if left < 0:
        return 0
    while over > 0 and too_long - fits > 1:
        guess = fits + round((too_long - fits) * left / (left + over))
        guess = min(max(guess, fits + 1), too_long - 1)
        at_guess = room(guess)
        fits, left = (guess, at_guess) if at_guess >= 0 else (fits, left)
        too_long, over = (too_long, over) if at_guess >= 0 else (guess, -at_guess)
    return (fits if over > 0 else too_long) * STEP


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--longest", action="store_true", help="the longest sequence of every schedule")
    parser.add_argument("--memory-gb", type=float, default=80.0, help="per GPU, GB of 10^9 bytes (80)")
    parser.add_argument("flags", nargs="*", help="of pretrain_gpt.py, behind --")
    arguments = parser.parse_args()
    flags = [*MODEL, *arguments.flags]
    if not arguments.longest:
        print(json.dumps(dry_run(flags)))
        return
    for schedule, more in SCHEDULES.items():
        tokens = longest([*flags, *more], memory_gb=arguments.memory_gb)
        row: dict[str, object] = {"schedule": schedule, "longest_k_tokens": tokens // 1024}
        if tokens:
            row |= dry_run([*flags, *more, "--seq-length", str(tokens)])
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
