"""The sections of benchmarks/gpu.py: python -m benchmarks.gpu_sections NAME DEVICE BUDGET_SECONDS [tiny]."""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial

from megatron.seq1f1b.upstream import prepare_megatron_core

prepare_megatron_core()

import torch

from benchmarks.device_clock import Clock
from benchmarks.one_layer import Case, inputs_of, run_attention
from megatron.seq1f1b.attention import CachePool
from megatron.seq1f1b.errors import BackendError

LLAMA = {"heads": 32, "groups": 8, "head_dim": 128}
"""A layer of Llama 3 8B."""


class Section:
    """What every section needs: the device, its clock, the time left, and how to report."""

    def __init__(self, name: str, device: str, budget_seconds: float, *, is_tiny: bool) -> None:
        self.name, self.device, self.is_tiny = name, device, is_tiny
        self.clock = Clock(device)
        self._ends_at = time.monotonic() + budget_seconds

    def report(self, **figures: object) -> None:
        """One JSON line."""
        print(json.dumps({"section": self.name, **figures}), flush=True)

    def within_budget(self, cases: list[object]) -> Iterator[object]:
        """The cases for which there is time; names the rest."""
        for index, case in enumerate(cases):
            if time.monotonic() > self._ends_at:
                self.report(not_run=[str(each) for each in cases[index:]], reason="out of time")
                return
            yield case


def attention(section: Section) -> None:
    """Chunks over one call, by backend, dtype, length and k."""
    lengths: tuple[int, ...] = (4096, 16384, 32768)
    chunk_counts: tuple[int, ...] = (2, 4, 8)
    rounds = 7
    shape = LLAMA
    if section.is_tiny:
        lengths, chunk_counts, rounds, shape = (64,), (2,), 1, {"heads": 4, "groups": 2, "head_dim": 8}
    fast = "torch-flash" if section.device == "cuda" else "cpu"
    cases: list[object] = [
        Case(backend=fast, dtype=dtype, seq_length=length, chunks=chunks, **shape)
        for length, dtype, chunks in itertools.product(lengths, ("bfloat16", "float16"), chunk_counts)
    ]
    cases += [Case(backend=fast, dtype="bfloat16", seq_length=lengths[-1], chunks=4, window=1024, **shape)]
    cases += [Case(backend="reference", dtype="float32", seq_length=lengths[0] // 4, chunks=4, **shape)]
    for case in section.within_budget(cases):
        assert isinstance(case, Case)
        inputs, pool = inputs_of(case, section.device), CachePool()
        both = (partial(run_attention, each, inputs, pool) for each in (case, replace(case, chunks=1)))
        try:
            pairs = section.clock.alternate(*both, rounds=rounds)
        except BackendError as error:
            section.report(**asdict(case), refused=str(error))
            continue
        chunked, full = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(one / other for one, other in pairs)
        section.report(**asdict(case), chunked_seconds=chunked, whole_seconds=full, ratio=round(ratio, 4))


def overhead(section: Section) -> None:
    """What a chunk adds where there is next to nothing to compute, by the processor's clock."""
    backend = "torch-flash" if section.device == "cuda" else "cpu"
    case = Case(backend=backend, dtype="bfloat16", seq_length=96, chunks=3, heads=4, groups=4, head_dim=64)
    inputs, pool = inputs_of(case, section.device), CachePool()
    one = replace(case, chunks=1)
    rounds = 3 if section.is_tiny else 300
    pairs = section.clock.alternate(
        lambda: run_attention(case, inputs, pool), lambda: run_attention(one, inputs, pool), rounds=rounds
    )
    chunked, whole = (statistics.median(column) for column in zip(*pairs, strict=True))
    section.report(
        backend=backend,
        microseconds_per_added_chunk=round(1e6 * (chunked - whole) / 2, 1),
        microseconds_of_a_whole_call=round(1e6 * whole, 1),
    )


def memory(section: Section) -> None:
    """Peak bytes of the allocator beyond the inputs; on CPU there is none to ask."""
    if section.device == "cpu":
        section.report(skipped="the CPU has no allocator to ask; see benchmarks/attention_memory.py")
        return
    peaks = {}
    for chunks in (1, 8):
        case = Case(backend="torch-flash", dtype="bfloat16", seq_length=32768, chunks=chunks, **LLAMA)
        inputs = inputs_of(case, section.device)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run_attention(case, inputs, CachePool())
        torch.cuda.synchronize()
        peaks[chunks] = torch.cuda.max_memory_allocated() - before
    section.report(peak_bytes=peaks, ratio=round(peaks[8] / peaks[1], 4))


def step(section: Section) -> None:
    """Training steps of one GPT on one stage."""
    from benchmarks.gpu_step import measure_step

    length, layers, hidden = (32768, 8, 2048) if not section.is_tiny else (64, 2, 32)
    slices = "--cross-entropy-slice-tokens " + str(length // 16)
    cases: list[object] = [
        "--pipeline-schedule 1f1b",
        "--pipeline-schedule seq1f1b --pipe-sp-splits 1",
        "--pipeline-schedule seq1f1b --pipe-sp-splits 4",
        f"--pipeline-schedule seq1f1b --pipe-sp-splits 4 {slices}",
        "--pipeline-schedule seq1f1b --pipe-sp-splits 8",
        "--pipeline-schedule seq1f1b-zb --pipe-sp-splits 4",
        "--pipeline-schedule seq1f1b --pipe-sp-splits 4 --recompute-granularity full",
    ]
    for flags in section.within_budget(cases):
        figures = measure_step(
            f"--num-layers {layers} --hidden-size {hidden} --seq-length {length} "
            f"--num-attention-heads {max(1, hidden // 128) if not section.is_tiny else 4} {flags}"
            f"{' --bf16' if section.device == 'cuda' else ''}",
            steps=2 if section.is_tiny else 4,
        )
        section.report(flags=flags, layers=layers, hidden=hidden, seq_length=length, **figures)


SECTIONS: dict[str, Callable[[Section], None]] = {
    "attention": attention,
    "overhead": overhead,
    "memory": memory,
    "step": step,
}


def main(name: str, device: str, budget_seconds: str, *rest: str) -> None:
    """Run one section."""
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("there is no CUDA device; --device cpu runs the same code on the processor")
    section = Section(name, device, float(budget_seconds), is_tiny="tiny" in rest)
    section.report(
        device=torch.cuda.get_device_name() if device == "cuda" else "CPU", torch=torch.__version__
    )
    SECTIONS[name](section)


if __name__ == "__main__":
    main(*sys.argv[1:])
