"""Measure the device at hand and write its profile for show_schedule.py and plan_run.py.

    python benchmarks/device_profile.py --output h100-here.json
    python tools/plan_run.py --model 30b --seq-length 65536 --devices 64 --device h100-here.json

Times matrix products and chunked attention, forward and backward, at the shapes of chunks, what a layer
costs on a handful of tokens, copies in memory, and with two devices the messages between them. What a
single machine cannot know (the data sheet's peak, links it does not have) comes from flags or from the
shipped profile --like names, and the file says so in its source. On CPU a device is one core.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F

from megatron.seq1f1b.attention import CachePool, SequenceState, choose_backend, chunked_attention
from megatron.seq1f1b.chunk import chunks_from
from megatron.seq1f1b.errors import ConfigurationError
from megatron.seq1f1b.model.flops import BACKWARD_OF_ATTENTION, causal_pairs
from megatron.seq1f1b.planning.devices import SHIPPED, Device, load_device
from megatron.seq1f1b.runtime.link_times import time_links

FEW_TOKENS = 16
MESSAGE_BYTES = 2**26
NUM_MESSAGES = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shapes:
    """Of what is measured."""

    hidden: int
    heads: int
    head_dim: int
    tokens: tuple[int, ...]
    """Rows of matrix products, ascending: short to long chunks."""
    seq_length: int
    """Of attention, in four chunks."""
    copied_bytes: int


GPU = Shapes(
    hidden=4096,
    heads=32,
    head_dim=128,
    tokens=(128, 256, 512, 1024, 2048, 4096, 8192),
    seq_length=32768,
    copied_bytes=2**30,
)
CPU = Shapes(
    hidden=512,
    heads=8,
    head_dim=64,
    tokens=(16, 64, 256, 1024),
    seq_length=4096,
    copied_bytes=2**27,
)


class Stopwatch:
    """Median seconds of a call on the device."""

    def __init__(self, device: torch.device, *, rounds: int) -> None:
        self._device = device
        self._rounds = rounds

    def seconds(self, work: Callable[[], object], *, repeats: int = 1) -> float:
        """Of one of `repeats` calls in a row; two rounds warm up."""
        taken = []
        for _ in range(self._rounds + 2):
            started_at = self.now()
            for _ in range(repeats):
                work()
            taken.append((self.now() - started_at) / repeats)
        return statistics.median(taken[2:])

    def now(self) -> float:
        """Seconds, once the device has done what it was given."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bench:
    """One device and what to measure on it."""

    device: torch.device
    dtype: torch.dtype
    shapes: Shapes
    watch: Stopwatch

    def tensor(self, *sizes: int) -> torch.Tensor:
        """Random."""
        return torch.randn(sizes, device=self.device, dtype=self.dtype)

    def matrix(self) -> tuple[float, float]:
        """(FLOP/s of long products, rows at which half of that is reached).

        A product of n rows takes (n + rows at half) FLOPs per row / rate: a line through the measured
        seconds, by least squares of the relative error.
        """
        inner, outer = self.shapes.hidden, 4 * self.shapes.hidden
        weight, rows, seconds = self.tensor(outer, inner), [], []
        for tokens in self.shapes.tokens:
            inputs, grads = self.tensor(tokens, inner), self.tensor(tokens, outer)
            rows.append(tokens)
            repeats = max(1, self.shapes.tokens[-1] // tokens // 4)
            products: tuple[Callable[[], object], ...] = (
                lambda x=inputs: F.linear(x, weight),
                lambda g=grads: g @ weight,
                lambda x=inputs, g=grads: g.T @ x,
            )
            seconds.append(sum(self.watch.seconds(each, repeats=repeats) for each in products) / 3)
        per_row, constant = fitted_line(rows, seconds)
        return 2.0 * inner * outer / per_row, constant / per_row

    def attention(self) -> tuple[float, float]:
        """(FLOP/s forward, FLOP/s backward) over the chunks of a sequence."""
        shapes = self.shapes
        chunks = chunks_from([shapes.seq_length * index // 4 for index in range(5)])
        backend = choose_backend("auto", device=self.device, dtype=self.dtype, head_dim=shapes.head_dim)
        pool = CachePool()
        forward, backward = [], []
        for _ in range(5):
            state = SequenceState(
                pool=pool, seq_length=shapes.seq_length, microbatch=0, virtual_stage=0, num_chunks=4
            )
            rows = [
                [self.tensor(chunk.length, 1, shapes.heads, shapes.head_dim) for _ in range(4)]
                for chunk in chunks
            ]
            started_at = self.watch.now()
            outputs = [
                chunked_attention(
                    *(each.requires_grad_() for each in row[:3]),
                    cache=state.cache(1),
                    chunk=chunk,
                    softmax_scale=shapes.head_dim**-0.5,
                    backend=backend,
                )
                for chunk, row in zip(chunks, rows, strict=True)
            ]
            middle = self.watch.now()
            for output, row in reversed(list(zip(outputs, rows, strict=True))):
                output.backward(row[3])
            backward.append(self.watch.now() - middle)
            forward.append(middle - started_at)
            state.close()
        flops = 4.0 * shapes.heads * shapes.head_dim * causal_pairs(0, shapes.seq_length)
        return (
            flops / statistics.median(forward[1:]),
            BACKWARD_OF_ATTENTION * flops / statistics.median(backward[1:]),
        )

    def layer_overhead(self, matrix_rate: float, rows_at_half: float) -> float:
        """Seconds that a layer's forward takes on few tokens beyond its matrix products."""
        hidden = self.shapes.hidden
        shapes = ((hidden, 3 * hidden), (hidden, hidden), (hidden, 4 * hidden), (4 * hidden, hidden))
        weights = [self.tensor(outer, inner) for inner, outer in shapes]
        inputs = self.tensor(FEW_TOKENS, hidden)

        def layer() -> torch.Tensor:
            normed = F.layer_norm(inputs, (hidden,))
            query, key, value = F.linear(normed, weights[0]).view(FEW_TOKENS, -1, 3 * 64).chunk(3, -1)
            mixed = F.scaled_dot_product_attention(*(each.transpose(0, 1) for each in (query, key, value)))
            between = inputs + F.linear(mixed.transpose(0, 1).reshape(FEW_TOKENS, hidden), weights[1])
            wide = F.gelu(F.linear(F.layer_norm(between, (hidden,)), weights[2]))
            return between + F.linear(wide, weights[3])

        flops_per_row = 2.0 * sum(inner * outer for inner, outer in shapes)
        products = (FEW_TOKENS + rows_at_half) * flops_per_row / matrix_rate
        return max(0.0, self.watch.seconds(layer, repeats=10) - products)

    def memory_bandwidth(self) -> float:
        """Bytes per second, read and written, of a copy."""
        source = torch.empty(self.shapes.copied_bytes, device=self.device, dtype=torch.uint8)
        target = torch.zeros_like(source)
        return 2 * self.shapes.copied_bytes / self.watch.seconds(lambda: target.copy_(source))


def fitted_line(rows: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """(per row, constant), the constant at least 0."""
    weights = 1.0 / np.array(seconds)
    table = np.stack([np.array(rows, dtype=float), np.ones(len(rows))], axis=1) * weights[:, None]
    (per_row, constant), *_ = np.linalg.lstsq(table, np.ones(len(rows)), rcond=None)
    if constant < 0.0:
        only = table[:, 0]
        per_row, constant = float(only.sum() / (only @ only)), 0.0
    return float(per_row), float(constant)


def exchange(rank: int, backend: str, store: str, results: str) -> None:
    """One of two processes that send to each other: latency and bandwidth, written by the first."""
    torch.set_num_threads(1)
    device = torch.device("cpu")
    if backend == "nccl":
        device = torch.device("cuda", rank)
        torch.cuda.set_device(device)
    dist.init_process_group(backend, init_method=f"file://{store}", rank=rank, world_size=2)

    assert dist.group.WORLD is not None
    links = time_links(dist.group.WORLD, num_bytes=(64, MESSAGE_BYTES), repeats=NUM_MESSAGES, device=device)
    for link in links:
        found = {
            "latency_seconds": link.latency_seconds,
            "node_bytes_per_second": link.bytes_per_second,
        }
        Path(results).write_text(json.dumps(found), encoding="utf-8")
    dist.destroy_process_group()


def links(backend: str, folder: Path) -> dict[str, float]:
    """Between two processes of this machine."""
    files = str(folder / "store"), str(folder / "links.json")
    torch.multiprocessing.spawn(exchange, (backend, *files), nprocs=2)
    found: dict[str, float] = json.loads(Path(files[1]).read_text(encoding="utf-8"))
    return found


def shipped_like(name: str) -> Device | None:
    """The shipped profile of a device of that name."""
    shipped = [load_device(path.stem) for path in sorted(SHIPPED.glob("*.json"))]
    return next((each for each in shipped if each.name.split()[1] in name), None)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="where to write it")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="what to measure (cuda where there is)")
    parser.add_argument("--like", metavar="NAME", help="profile that gives what cannot be measured")
    parser.add_argument("--peak-tflops", type=float, metavar="X", help="peak of the data sheet")
    parser.add_argument("--network-gb", type=float, metavar="X", help="GB/s between nodes, per device")
    parser.add_argument("--hidden", type=int, metavar="N", help="hidden size of the layers measured")
    parser.add_argument("--seq-length", type=int, metavar="S", help="tokens of the attention measured")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="of which medians are taken (7)")
    return parser.parse_args()


def bench_of(arguments: argparse.Namespace) -> Bench:
    """What to measure on which device."""
    kind = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(kind, torch.cuda.current_device()) if kind == "cuda" else torch.device(kind)
    shapes = GPU if kind == "cuda" else CPU
    changed = {"hidden": arguments.hidden, "seq_length": arguments.seq_length}
    shapes = dataclasses.replace(shapes, **{name: each for name, each in changed.items() if each})
    return Bench(
        device=device,
        dtype=torch.bfloat16 if kind == "cuda" else torch.float32,
        shapes=shapes,
        watch=Stopwatch(device, rounds=arguments.rounds),
    )


def measured(arguments: argparse.Namespace, bench: Bench) -> Device:
    """The profile, with where every number comes from.

    Raises:
        ConfigurationError: a number that can neither be measured here nor taken from a profile.
    """
    is_cpu = bench.device.type == "cpu"
    name = processor_name() if is_cpu else torch.cuda.get_device_name(bench.device)
    like = load_device(arguments.like) if arguments.like else shipped_like(name)
    found = found_links(bench, like)
    network = arguments.network_gb * 1e9 if arguments.network_gb else None
    network = network or (like.network_bytes_per_second if like else found["node_bytes_per_second"])
    matrix_rate, rows_at_half = bench.matrix()
    forward_rate, backward_rate = bench.attention()
    peak = arguments.peak_tflops * 1e12 if arguments.peak_tflops else None
    peak = peak or (like.peak_flops_per_second if like else max(matrix_rate, forward_rate, backward_rate))
    return Device(
        name=f"one core of {name}" if is_cpu else name,
        source=source_of(arguments, like, is_cpu=is_cpu),
        memory_bytes=memory_bytes(bench.device),
        peak_flops_per_second=peak,
        memory_bytes_per_second=bench.memory_bandwidth(),
        matrix_efficiency=matrix_rate / peak,
        attention_forward_efficiency=forward_rate / peak,
        attention_backward_efficiency=backward_rate / peak,
        tokens_at_half_efficiency=rows_at_half,
        layer_overhead_seconds=bench.layer_overhead(matrix_rate, rows_at_half),
        devices_per_node=num_devices(bench.device),
        node_bytes_per_second=found["node_bytes_per_second"],
        network_bytes_per_second=network,
        latency_seconds=found["latency_seconds"],
    )


def found_links(bench: Bench, like: Device | None) -> dict[str, float]:
    """Measured where this machine has two devices, else another profile's."""
    if num_devices(bench.device) > 1:
        with tempfile.TemporaryDirectory() as folder:
            return links("gloo" if bench.device.type == "cpu" else "nccl", Path(folder))
    if like is None:
        raise ConfigurationError(
            "one device alone cannot measure its links; name a profile that has them, as in --like a100"
        )
    return {
        "latency_seconds": like.latency_seconds,
        "node_bytes_per_second": like.node_bytes_per_second,
    }


def source_of(arguments: argparse.Namespace, like: Device | None, *, is_cpu: bool) -> str:
    """What is measured, when and with what, and what is not."""
    rest = (
        f"peak and network of {like.name}"
        if like
        else "peak is the fastest rate measured, network the node's"
    )
    if arguments.peak_tflops:
        rest += f", peak given as {arguments.peak_tflops:g} TFLOP/s"
    if arguments.network_gb:
        rest += f", network given as {arguments.network_gb:g} GB/s"
    day = datetime.now(timezone.utc).date().isoformat()
    precision = "float32" if is_cpu else "bfloat16"
    return f"measured {day} in {precision} with torch {torch.__version__}; {rest}"


def processor_name() -> str:
    """As Linux has it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def num_devices(device: torch.device) -> int:
    """Of this machine: GPUs, or cores that this process may use."""
    return torch.cuda.device_count() if device.type == "cuda" else len(os.sched_getaffinity(0))


def memory_bytes(device: torch.device) -> float:
    """Of the device; a core has its share of the machine's."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")) / num_devices(device)


def main() -> int:
    """Measure, write, say what was found; 2 where something is missing."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    try:
        profile = measured(arguments, bench_of(arguments))
    except ConfigurationError as error:
        print(f"device_profile.py: {error}", file=sys.stderr)
        return 2
    arguments.output.write_text(json.dumps(dataclasses.asdict(profile), indent=2) + "\n", encoding="utf-8")
    print(json.dumps(dataclasses.asdict(profile)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
