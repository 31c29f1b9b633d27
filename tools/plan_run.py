"""Find how to run a model on a cluster: layout, schedule, chunks and recomputation, best first.

    python tools/plan_run.py --model 30b --seq-length 65536 --devices 64 --device a100

Prices every combination of tensor, pipeline and data parallelism, schedule, virtual stages, chunks, way
of cutting, recomputation and layers on the last stage, and simulates the most promising ones that fit.
It assumes what the device's profile says, one sequence per microbatch, bfloat16, a distributed
optimizer, gradients reduced after the last backward, and no dropout.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megatron.seq1f1b.errors import ConfigurationError
from megatron.seq1f1b.model.memory import Recompute
from megatron.seq1f1b.planning.candidates import Candidate, Problem
from megatron.seq1f1b.planning.devices import load_device
from megatron.seq1f1b.planning.links import read_links
from megatron.seq1f1b.planning.models import MODELS, named_model
from megatron.seq1f1b.planning.search import Outcome, search
from tools.command_line import Parser, end_by_signals, run

HEADER = ("", "step s", "tokens/s", "MFU", "GB", "bubble", "schedule", "tp", "pp", "dp", "v", "k", "m", "cut")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    parser.add_argument("--model", required=True, metavar="NAME", help=f"one of {', '.join(MODELS)}")
    parser.add_argument("--seq-length", type=int, required=True, metavar="S", help="tokens of a sequence")
    parser.add_argument("--devices", type=int, required=True, metavar="N", help="GPUs")
    parser.add_argument("--device", default="a100", metavar="NAME", help="a100, h100 or a .json file (a100)")
    parser.add_argument(
        "--links", type=Path, metavar="FILE", help="what tools/measure_links.py wrote (the profile's)"
    )
    parser.add_argument(
        "--global-batch-size", type=int, metavar="B", help="sequences per step (as many as devices)"
    )
    parser.add_argument("--memory-gb", type=float, metavar="GB", help="per device (the profile's)")
    parser.add_argument("--best", type=int, default=10, metavar="N", help="how many to print (10)")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="(table)")
    return parser.parse_args()


def problem_of(arguments: argparse.Namespace) -> Problem:
    """What the command line asks."""
    device = load_device(arguments.device)
    if arguments.links is not None:
        device = read_links(arguments.links).on(device)
    gigabytes, asked = arguments.memory_gb, arguments.global_batch_size
    problem = Problem(
        model=named_model(arguments.model),
        device=device,
        num_devices=arguments.devices,
        seq_length=arguments.seq_length,
        global_batch_size=arguments.devices if asked is None else asked,
        memory_bytes=device.memory_bytes if gigabytes is None else gigabytes * 1e9,
    )
    counts = {
        "--devices": problem.num_devices,
        "--seq-length": problem.seq_length,
        "--global-batch-size": problem.global_batch_size,
        "--memory-gb": problem.memory_bytes,
        "--best": arguments.best,
    }
    for flag, value in counts.items():
        if not value > 0:
            raise ConfigurationError(f"{flag} must be positive")
    return problem


def command_of(problem: Problem, candidate: Candidate) -> str:
    """The full command line, on synthetic data."""
    model = problem.model
    flags = [*model.flags(), "--seq-length", str(problem.seq_length), "--micro-batch-size", "1"]
    flags += ["--global-batch-size", str(problem.global_batch_size), "--use-distributed-optimizer"]
    flags += ["--tensor-model-parallel-size", str(candidate.tensor_parallel)]
    flags += ["--sequence-parallel"] if candidate.tensor_parallel > 1 else []
    flags += ["--pipeline-model-parallel-size", str(candidate.stages)]
    if candidate.virtual_stages > 1:
        flags += ["--num-virtual-stages-per-pipeline-rank", str(candidate.virtual_stages)]
    if len(set(candidate.layers)) > 1:
        flags += ["--decoder-last-pipeline-num-layers", str(candidate.layers[-1])]
    flags += ["--pipeline-schedule", candidate.schedule, "--pipe-sp-splits", str(candidate.chunks)]
    flags += ["--pipe-sp-strategy", candidate.strategy]
    if candidate.recompute is not Recompute.NONE:
        flags += ["--recompute-granularity", candidate.recompute.value]
    if candidate.recompute is Recompute.FULL:
        flags += ["--recompute-method", "uniform", "--recompute-num-layers", "1"]
    flags += ["--train-iters", "100", *model.learning_rate_flags(), "--mock-data"]
    flags += model.mock_vocabulary_flags()
    # Equally many on every node, and no tensor-parallel group across two.
    tensor, most = candidate.tensor_parallel, problem.device.devices_per_node
    per_node = max(each for each in range(tensor, most + 1, tensor) if problem.num_devices % each == 0)
    nodes = problem.num_devices // per_node
    joined = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "$HEAD_NODE:29500"]
    together = ["--nnodes", str(nodes), *joined] if nodes > 1 else ["--standalone"]
    return " ".join(["torchrun", *together, "--nproc_per_node", str(per_node), "pretrain_gpt.py", *flags])


def as_table(problem: Problem, outcomes: list[Outcome]) -> str:
    """The outcomes, their command lines, and what was assumed."""
    rows = [HEADER, *(_row(number, outcome) for number, outcome in enumerate(outcomes, start=1))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    commands = [
        f"{number}. {command_of(problem, outcome.candidate)}"
        for number, outcome in enumerate(outcomes, start=1)
    ]
    assumed = (
        f"predicted for {problem.num_devices} x {problem.device.name} ({problem.device.source}); one "
        "sequence per microbatch, GB are 10^9 bytes of the worst stage; the commands train on synthetic "
        "data: put your own and its tokenizer in place of --mock-data, --tokenizer-type and --vocab-size"
    )
    return "\n".join([*lines, "", *commands, "", assumed])


def _row(number: int, outcome: Outcome) -> tuple[str, ...]:
    candidate = outcome.candidate
    extras = "" if candidate.recompute is Recompute.NONE else f", recompute {candidate.recompute.value}"
    extras += f", {candidate.layers[-1]} layers last" if len(set(candidate.layers)) > 1 else ""
    layout = (candidate.tensor_parallel, candidate.stages, candidate.data_parallel)
    work = (candidate.virtual_stages, candidate.chunks, candidate.microbatches)
    return (
        f"{number}.",
        f"{outcome.step_seconds:.2f}",
        f"{outcome.tokens_per_second:.0f}",
        f"{outcome.mfu:.1%}",
        f"{outcome.memory_bytes / 1e9:.1f}",
        f"{outcome.bubble_fraction:.1%}",
        candidate.schedule,
        *map(str, (*layout, *work)),
        candidate.strategy + extras,
    )


def as_json(problem: Problem, outcomes: list[Outcome]) -> str:
    """What other programs read."""
    shown = [
        {
            "step_seconds": outcome.step_seconds,
            "tokens_per_second": outcome.tokens_per_second,
            "mfu": outcome.mfu,
            "bubble_fraction": outcome.bubble_fraction,
            "peak_bytes": outcome.memory_bytes,
            "schedule": outcome.candidate.schedule,
            "tensor_parallel": outcome.candidate.tensor_parallel,
            "stages": outcome.candidate.stages,
            "data_parallel": outcome.candidate.data_parallel,
            "virtual_stages": outcome.candidate.virtual_stages,
            "chunks": outcome.candidate.chunks,
            "microbatches": outcome.candidate.microbatches,
            "strategy": outcome.candidate.strategy,
            "recompute": outcome.candidate.recompute.value,
            "command": command_of(problem, outcome.candidate),
        }
        for outcome in outcomes
    ]
    return json.dumps({"device": problem.device.name, "source": problem.device.source, "best": shown})


def main() -> None:
    """Search and print; refused where nothing fits."""
    arguments = parse_arguments()
    problem = problem_of(arguments)
    outcomes = search(problem, best=arguments.best)
    print(as_json(problem, outcomes) if arguments.format == "json" else as_table(problem, outcomes))


if __name__ == "__main__":
    end_by_signals()
    run(main)
