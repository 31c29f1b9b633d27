"""Every way to lay a model over a cluster and to schedule it: what a search has to choose from."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from megatron.seq1f1b.errors import ConfigurationError
from megatron.seq1f1b.model.memory import Recompute
from megatron.seq1f1b.planning.devices import Device
from megatron.seq1f1b.planning.models import NamedModel
from megatron.seq1f1b.schedule import check_schedule

SCHEDULES = ("1f1b", "interleaved", "seq1f1b", "seq1f1b-interleaved", "seq1f1b-zb")
CHUNKS = (2, 4, 8, 16)
VIRTUAL_STAGES = (2, 4)
RECOMPUTE = (Recompute.NONE, Recompute.FULL)
"""Recomputing flash attention alone holds more than it saves, and takes longer: never worth it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """What is to be trained on what."""

    model: NamedModel
    device: Device
    num_devices: int
    seq_length: int
    global_batch_size: int
    """Sequences per step."""
    memory_bytes: float
    """Per device."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One way to run it, one sequence per microbatch."""

    tensor_parallel: int
    stages: int
    data_parallel: int
    microbatches: int
    schedule: str
    chunks: int
    virtual_stages: int
    strategy: str
    recompute: Recompute
    layers: tuple[int, ...]
    """By virtual stage."""


def candidates(problem: Problem) -> Iterator[Candidate]:
    """Everything that could run, whether it fits or not."""
    for tensor, stages, data in _layouts(problem):
        microbatches = problem.global_batch_size // data
        for schedule, chunks, virtual in _schedules(problem, tensor, stages, microbatches):
            strategies = ("uniform_comp", "average") if chunks > 1 else ("average",)
            for layers, recompute in itertools.product(_layer_counts(problem, stages, virtual), RECOMPUTE):
                for strategy in strategies:
                    yield Candidate(
                        tensor_parallel=tensor,
                        stages=stages,
                        data_parallel=data,
                        microbatches=microbatches,
                        schedule=schedule,
                        chunks=chunks,
                        virtual_stages=virtual,
                        strategy=strategy,
                        recompute=recompute,
                        layers=layers,
                    )


def _layouts(problem: Problem) -> Iterator[tuple[int, int, int]]:
    """Tensor parallelism within a node, stages, data parallelism."""
    model, device = problem.model, problem.device
    for tensor in (1, 2, 4, 8):
        is_within_node = tensor <= device.devices_per_node
        if not is_within_node or problem.num_devices % tensor or not model.can_share(tensor):
            continue
        for stages in range(1, problem.num_devices // tensor + 1):
            data, rest = divmod(problem.num_devices, tensor * stages)
            if not rest and problem.global_batch_size % data == 0 and model.num_layers % stages == 0:
                yield tensor, stages, data


def _schedules(
    problem: Problem, tensor: int, stages: int, microbatches: int
) -> Iterator[tuple[str, int, int]]:
    """Schedule, chunks and virtual stages that can run."""
    for schedule in SCHEDULES:
        is_interleaved, is_chunked = schedule.endswith("interleaved"), schedule.startswith("seq1f1b")
        for chunks in CHUNKS if is_chunked else (1,):
            if problem.seq_length < chunks * tensor or problem.seq_length % (chunks * tensor):
                continue
            for virtual in VIRTUAL_STAGES if is_interleaved else (1,):
                if stages == 1 or problem.model.num_layers % (stages * virtual):
                    continue
                try:
                    check_schedule(
                        schedule,
                        stages=stages,
                        microbatches=microbatches,
                        chunks=chunks,
                        virtual_stages=virtual,
                    )
                except ConfigurationError:
                    continue
                yield schedule, chunks, virtual
    if stages == 1:
        yield "1f1b", 1, 1


def _layer_counts(problem: Problem, stages: int, virtual_stages: int) -> Iterator[tuple[int, ...]]:
    """Even layers; without virtual stages also fewer on the last stage, for the head."""
    parts = stages * virtual_stages
    even = problem.model.num_layers // parts
    yield (even,) * parts
    last = even - (stages - 1)
    if virtual_stages == 1 < stages and last > 0:
        yield (*((even + 1,) * (stages - 1)), last)
