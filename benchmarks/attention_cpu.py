"""Chunked attention on CPU against one full causal call: time, overhead, packed documents.

    python benchmarks/attention_cpu.py                          # k=4, S=8192, float32, MHA
    python benchmarks/attention_cpu.py --grid --rounds 3 --threads 1    # every shape, and the worst ratio
    python benchmarks/attention_cpu.py --overhead --documents

Both sides run in turn in one process, forward and backward through autograd, and each figure is the
median over rounds of the two times of a round. `ratio` is chunked over full. Each measurement is
one JSON line and one line to read. One thread is what a process of a run on CPUs has, and its processor
time is taken, which does not count while others have the core; more of them meet after every kernel, and
where others share their cores, ratios are noise.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.one_layer import DTYPES, Case, Tensors, inputs_of, run_attention
from megatron.seq1f1b.attention import CachePool, SequenceState, choose_backend, chunked_attention
from megatron.seq1f1b.chunk import chunks_from

CASE = Case(seq_length=8192, chunks=4, heads=8, groups=8, head_dim=64)
GRID_DTYPES = ("float32", "bfloat16")
MIN_CHUNK = 1024


def seconds_of(case: Case, inputs: Tensors, pool: CachePool) -> float:
    """Of forward and backward of the sequence."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    started_at = clock()
    run_attention(case, inputs, pool)
    return clock() - started_at


def compare(*works: Callable[[], float], rounds: int) -> list[tuple[float, float]]:
    """For each work its median seconds, and the median over rounds of them over the first one's.

    All take turns, so that what the machine does besides meets them alike; medians leave out what the
    first round has to allocate.
    """
    columns = list(zip(*([work() for work in works] for _ in range(rounds)), strict=True))
    return [
        (
            statistics.median(column),
            statistics.median(one / first for one, first in zip(column, columns[0], strict=True)),
        )
        for column in columns
    ]


def report(name: str, result: dict[str, object], sentence: str) -> None:
    """One JSON line and one to read."""
    print(json.dumps({"benchmark": name, **result}), flush=True)
    print(f"  {sentence}", flush=True)


def measure_ratios(shapes: Sequence[Case], *, rounds: int) -> list[float]:
    """Time of the chunks over that of one full causal call, for shapes that differ in chunks or documents."""
    inputs, pool = inputs_of(shapes[0]), CachePool()
    full = replace(shapes[0], chunks=1, documents=1)
    works = [partial(seconds_of, shape, inputs, pool) for shape in (full, *shapes)]
    (whole, _), *chunked = compare(*works, rounds=rounds)
    for shape, (seconds, ratio) in zip(shapes, chunked, strict=True):
        report(
            "attention_time" if shape.documents == 1 else "attention_documents",
            {
                **vars(shape),
                "threads": torch.get_num_threads(),
                "rounds": rounds,
                "chunked_seconds": round(seconds, 4),
                "full_seconds": round(whole, 4),
                "ratio": round(ratio, 4),
            },
            f"S={shape.seq_length} k={shape.chunks} {shape.heads}/{shape.groups} heads {shape.dtype} "
            f"documents={shape.documents}: {seconds:.3f} s over {whole:.3f} s full, ratio {ratio:.3f}",
        )
    return [ratio for _, ratio in chunked]


def measure_overhead(*, rounds: int) -> None:
    """What a middle chunk costs beyond the plain core where kernels have next to nothing to compute.

    Processor time of this thread, medians of works that take turns, forward and backward:
    `chunk` is chunk 1 of 3, `plain` the same tensors as a sequence of their own, and the two
    `kernels` are the bare ATen calls that each of them makes (views left out), on tensors of the same
    shapes. `python` is (chunk - its kernels) - (plain - its kernels): what is neither the prefix's
    attention, nor the merging, nor copies into the cache and sums of gradients.
    """
    case = Case(seq_length=24, heads=4, groups=4, head_dim=16)
    inputs, pool = inputs_of(case), CachePool()
    works = {
        "chunk": partial(_middle_chunk_seconds, inputs, pool),
        "plain": partial(_plain_seconds, inputs),
        "chunk_kernels": partial(_chunk_kernel_seconds, inputs),
        "plain_kernels": partial(_plain_kernel_seconds, inputs),
    }
    medians = compare(*works.values(), rounds=rounds)
    us = {name: 1e6 * seconds for name, (seconds, _) in zip(works, medians, strict=True)}
    us["extra"] = us["chunk"] - us["plain"]
    us["python"] = us["extra"] - (us["chunk_kernels"] - us["plain_kernels"])
    report(
        "attention_overhead",
        {**{f"{name}_us": round(value, 1) for name, value in us.items()}, "rounds": rounds},
        f"one chunk adds {us['extra']:.0f} us to the plain core's {us['plain']:.0f} us: "
        f"{us['extra'] - us['python']:.0f} us of kernels and {us['python']:.0f} us of Python",
    )


OVERHEAD_CHUNKS = chunks_from((0, 8, 16, 24))


def _middle_chunk_seconds(inputs: Tensors, pool: CachePool) -> float:
    backend = choose_backend("cpu", device="cpu", dtype=torch.float32, head_dim=16)
    state = SequenceState(pool=pool, seq_length=24, microbatch=0, virtual_stage=0, num_chunks=3)
    outputs, seconds = [], 0.0
    for chunk in OVERHEAD_CHUNKS:
        piece = [rows[chunk.start : chunk.stop].clone().requires_grad_() for rows in inputs[:3]]
        started_at = time.thread_time()
        output = chunked_attention(
            *piece, cache=state.cache(1), chunk=chunk, softmax_scale=0.25, backend=backend
        )
        seconds += (time.thread_time() - started_at) if chunk.index == 1 else 0.0
        outputs.append(output)
    for chunk, output in reversed(list(zip(OVERHEAD_CHUNKS, outputs, strict=True))):
        grad = inputs[3][chunk.start : chunk.stop]
        started_at = time.thread_time()
        output.backward(grad)
        seconds += (time.thread_time() - started_at) if chunk.index == 1 else 0.0
    state.close()
    return seconds


def _plain_seconds(inputs: Tensors) -> float:
    (chunk,) = chunks_from((0, 8))
    backend = choose_backend("cpu", device="cpu", dtype=torch.float32, head_dim=16)
    piece = [rows[:8].clone().requires_grad_() for rows in inputs[:3]]
    grad = inputs[3][:8]
    started_at = time.thread_time()
    output = chunked_attention(*piece, cache=None, chunk=chunk, softmax_scale=0.25, backend=backend)
    output.backward(grad)
    return time.thread_time() - started_at


_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default


def _chunk_kernel_seconds(inputs: Tensors) -> float:
    """Into the cache, prefix and diagonal, merged; backward of both, and sums of their gradients."""
    query, key, *_ = (rows[:8].permute(1, 2, 0, 3) for rows in inputs)
    keys, total = (key.new_zeros(key.shape) for _ in range(2))
    started_at = time.thread_time()
    output = torch.empty_like(query)
    keys.copy_(key)
    keys.copy_(key)
    prefix, prefix_sum = _flash(query, keys, keys)
    own, own_sum = _flash(query, keys, keys, 0.0, True)
    torch.lerp(prefix, own, torch.sigmoid(own_sum - prefix_sum)[..., None], out=output)
    log_sum_exp = torch.logaddexp(prefix_sum, own_sum)
    grad_query = torch.empty_like(query)
    prefix_grads = _flash_backward(output, query, keys, keys, output, log_sum_exp, 0.0, False)
    own_grads = _flash_backward(output, query, keys, keys, output, log_sum_exp, 0.0, True)
    for prefix_grad, own_grad in zip(prefix_grads[1:], own_grads[1:], strict=True):
        total.add_(prefix_grad)
        torch.add(total, own_grad)
    torch.add(prefix_grads[0], own_grads[0], out=grad_query)
    return time.thread_time() - started_at


def _plain_kernel_seconds(inputs: Tensors) -> float:
    query, key, *_ = (rows[:8].permute(1, 2, 0, 3) for rows in inputs)
    started_at = time.thread_time()
    output = torch.empty_like(query)
    attended, log_sum_exp = _flash(query, key, key, 0.0, True)
    output.copy_(attended)
    grad_query = torch.empty_like(query)
    grad, *_ = _flash_backward(output, query, key, key, output, log_sum_exp, 0.0, True)
    grad_query.copy_(grad)
    return time.thread_time() - started_at


def measure_grid(*, rounds: int) -> None:
    """Every shape the figures name, and the worst of their ratios."""
    ratios = [ratio for shapes in grid() for ratio in measure_ratios(shapes, rounds=rounds)]
    print(
        f"  worst of {len(ratios)} shapes with chunks of at least {MIN_CHUNK} tokens: {max(ratios):.3f}",
        flush=True,
    )


def grid() -> list[list[Case]]:
    """Shapes whose chunks have at least `MIN_CHUNK` tokens, by what they share."""
    return [
        [
            replace(CASE, dtype=dtype, seq_length=seq_length, chunks=chunks, heads=4, groups=groups)
            for chunks in (2, 4, 8)
            if seq_length // chunks >= MIN_CHUNK
        ]
        for dtype, seq_length, groups in itertools.product(GRID_DTYPES, (4096, 8192, 16384), (4, 2))
    ]


def main() -> None:
    """Measure what the command line asks."""
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--seq-length", type=int, default=CASE.seq_length)
    options.add_argument("--chunks", type=int, default=CASE.chunks)
    options.add_argument("--heads", type=int, default=CASE.heads)
    options.add_argument("--groups", type=int, default=CASE.groups)
    options.add_argument("--dtype", choices=DTYPES, default=CASE.dtype)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--grid", action="store_true", help="every shape instead of one")
    options.add_argument("--overhead", action="store_true", help="time per chunk that is not kernels")
    options.add_argument("--documents", action="store_true", help="16 equal documents in the sequence")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    shape = replace(
        CASE,
        seq_length=arguments.seq_length,
        chunks=arguments.chunks,
        heads=arguments.heads,
        groups=arguments.groups,
        dtype=arguments.dtype,
    )
    if arguments.overhead:
        measure_overhead(rounds=200 * arguments.rounds)
    if arguments.documents:
        measure_ratios([replace(shape, documents=16)], rounds=arguments.rounds)
    if arguments.grid:
        measure_grid(rounds=arguments.rounds)
    elif not (arguments.overhead or arguments.documents):
        measure_ratios([shape], rounds=arguments.rounds)


if __name__ == "__main__":
    main()
