r"""Measure latency and bandwidth between the stages of a pipeline, for messages of real chunks.

    torchrun --standalone --nproc_per_node 4 tools/measure_links.py \
        --seq-length 4096 --hidden-size 1024 --chunks 4 --output links.json

Ranks are laid out as in a run of the same flags, and messages go over the same channels. The file is
what `tools/plan_run.py --links` and `tools/show_schedule.py --links` read.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megatron.seq1f1b.errors import ConfigurationError
from megatron.seq1f1b.partition import partition
from tools.command_line import Parser, run

ELEMENT_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}
SMALLEST_BYTES = 4


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    parser.add_argument("--seq-length", type=int, required=True, metavar="S", help="tokens of a sequence")
    parser.add_argument("--hidden-size", type=int, required=True, metavar="H", help="of the model")
    parser.add_argument("--chunks", type=int, default=4, metavar="K", help="chunks per sequence (4)")
    parser.add_argument("--micro-batch-size", type=int, default=1, metavar="B", help="sequences (1)")
    parser.add_argument(
        "--tensor-model-parallel-size", type=int, default=1, metavar="T", help="ranks per stage (1)"
    )
    parser.add_argument("--sequence-parallel", action="store_true", help="messages are split over them")
    parser.add_argument(
        "--pipeline-model-parallel-size", type=int, metavar="P", help="stages (all ranks / T)"
    )
    parser.add_argument("--dtype", choices=tuple(ELEMENT_BYTES), default="bf16", help="(bf16)")
    parser.add_argument("--repeats", type=int, default=20, metavar="N", help="messages per size (20)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write there (standard output)")
    return parser.parse_args()


def stages_of(arguments: argparse.Namespace) -> int:
    """Stages of the pipeline, from the flags and what torchrun set.

    Raises:
        ConfigurationError: not started by torchrun, or counts that do not fit.
    """
    if "WORLD_SIZE" not in os.environ:
        raise ConfigurationError(
            "links need two processes or more; start this with torchrun --nproc_per_node N"
        )
    world, tensor = int(os.environ["WORLD_SIZE"]), arguments.tensor_model_parallel_size
    stages: int = arguments.pipeline_model_parallel_size or world // max(tensor, 1)
    if tensor < 1 or stages < 2 or world % (tensor * stages):
        raise ConfigurationError(
            f"{world} processes cannot be tensor {tensor} x pipeline {stages} x data parallelism with two "
            "stages or more; change --nproc_per_node, --tensor-model-parallel-size or "
            "--pipeline-model-parallel-size"
        )
    return stages


def message_bytes(arguments: argparse.Namespace) -> list[int]:
    """Bytes of every chunk's message, and of a very small one."""
    positive = ("seq_length", "hidden_size", "chunks", "micro_batch_size", "repeats")
    for name in positive:
        if getattr(arguments, name) < 1:
            raise ConfigurationError(f"--{name.replace('_', '-')} must be at least 1")
    shards = arguments.tensor_model_parallel_size if arguments.sequence_parallel else 1
    boundaries = partition(
        "uniform_comp", seq_length=arguments.seq_length, chunks=arguments.chunks, multiple_of=shards
    )
    per_token = arguments.micro_batch_size * arguments.hidden_size * ELEMENT_BYTES[arguments.dtype]
    lengths = {stop - start for start, stop in pairwise(boundaries)}
    return [SMALLEST_BYTES, *(length // shards * per_token for length in sorted(lengths))]


def measure(arguments: argparse.Namespace, stages: int, sizes: list[int]) -> dict[str, Any] | None:
    """Join, time, gather; None on ranks other than 0."""
    from megatron.seq1f1b.upstream import prepare_megatron_core

    prepare_megatron_core()
    import torch
    import torch.distributed as dist
    from megatron.core import parallel_state

    from megatron.seq1f1b.runtime.link_times import time_links
    from megatron.seq1f1b.upstream.parallel import groups_of_step

    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except RuntimeError as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise ConfigurationError(f"the processes did not meet at {where}: {error}") from None
    parallel_state.initialize_model_parallel(arguments.tensor_model_parallel_size, stages)
    times = time_links(
        groups_of_step(None, None).pp, num_bytes=sizes, repeats=arguments.repeats, device=device
    )
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, (socket.gethostname(), times))
    backend = dist.get_backend()
    dist.destroy_process_group()
    if os.environ["RANK"] != "0":
        return None
    hosts = [host for host, _ in everyone]
    links = [
        {
            "source": each.source,
            "destination": each.destination,
            "is_inside_node": hosts[each.source] == hosts[each.destination],
            "latency_seconds": each.latency_seconds,
            "bytes_per_second": each.bytes_per_second,
            "seconds_by_bytes": each.seconds,
        }
        for _, timed in everyone
        for each in timed
    ]
    return {"backend": backend, "world_size": len(hosts), "stages": stages, "links": links}


def main() -> None:
    """Write what was measured."""
    arguments = parse_arguments()
    found = measure(arguments, stages_of(arguments), message_bytes(arguments))
    if found is not None:
        text = json.dumps(found, indent=2) + "\n"
        if arguments.output is not None:
            arguments.output.write_text(text, encoding="utf-8")
        else:
            sys.stdout.write(text)


if __name__ == "__main__":
    run(main)
