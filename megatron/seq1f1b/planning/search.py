"""Searches layouts and schedules of a cluster for the shortest predicted step that fits.

Every combination of tensor, pipeline and data parallelism, schedule, chunks, virtual stages, way of
cutting, recomputation and layers on the last stage is first priced by formulas: work per device over
one minus the bubble, and memory by the estimate. The most promising are then simulated.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from megatron.seq1f1b.chunk import Boundaries, chunks_from
from megatron.seq1f1b.errors import ConfigurationError
from megatron.seq1f1b.model.flops import partition_costs
from megatron.seq1f1b.model.memory import ModelMemory
from megatron.seq1f1b.partition import partition
from megatron.seq1f1b.planning.candidates import Candidate, Problem, candidates
from megatron.seq1f1b.planning.device_costs import DeviceCosts
from megatron.seq1f1b.planning.estimate import estimate
from megatron.seq1f1b.planning.nearest import nearest
from megatron.seq1f1b.schedule import (
    Plan,
    bubble_formula,
    make_plan,
    simulate,
    with_communication,
)

NUM_SIMULATED = 80
"""Candidates that are simulated, the most promising first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """A candidate with its predictions."""

    candidate: Candidate
    step_seconds: float
    tokens_per_second: float
    mfu: float
    bubble_fraction: float
    memory_bytes: int
    """Of the worst stage, allocator overhead included."""


def search(problem: Problem, *, best: int = 10) -> list[Outcome]:
    """The candidates with the shortest predicted steps that fit, best first.

    Raises:
        ConfigurationError: nothing fits; says what comes nearest and by how much it is short.
    """
    priced = sorted(
        ((_rough_seconds(problem, candidate), number, candidate))
        for number, candidate in enumerate(candidates(problem))
    )
    if not priced:
        raise ConfigurationError(_impossible(problem))
    outcomes: list[Outcome] = []
    closest: tuple[int, Candidate] | None = None
    for _, _, candidate in priced:
        needed = memory_of(problem, candidate)
        if needed > problem.memory_bytes:
            closest = min(closest or (needed, candidate), (needed, candidate), key=lambda pair: pair[0])
            continue
        outcomes.append(_simulated(problem, candidate, needed))
        if len(outcomes) == NUM_SIMULATED:
            break
    if not outcomes:
        assert closest is not None
        raise ConfigurationError(_short(problem, *closest))
    return sorted(outcomes, key=lambda outcome: outcome.step_seconds)[:best]


def memory_of(problem: Problem, candidate: Candidate) -> int:
    """Bytes of the worst stage: the first, or one that has the head or puts weight gradients off."""
    report = estimate(
        _memory(problem, candidate),
        _plan(candidate, _enough_microbatches(candidate)),
        _boundaries(problem, candidate),
        layers_of_virtual_stages=candidate.layers,
        ranks=sorted({0, 1 % candidate.stages, candidate.stages - 1}),
    )
    return report.worst_peak_bytes


def _memory(problem: Problem, candidate: Candidate) -> ModelMemory:
    memory = problem.model.memory(
        tensor_parallel=candidate.tensor_parallel, optimizer_shards=candidate.data_parallel
    )
    return replace(memory, recompute=candidate.recompute)


def _costs(problem: Problem, candidate: Candidate) -> DeviceCosts:
    return DeviceCosts(
        device=problem.device,
        memory=_memory(problem, candidate),
        data_parallel=candidate.data_parallel,
    )


def _boundaries(problem: Problem, candidate: Candidate) -> Boundaries:
    return partition(
        candidate.strategy,
        seq_length=problem.seq_length,
        chunks=candidate.chunks,
        multiple_of=candidate.tensor_parallel,
        **partition_costs(problem.model.dimensions()),
    )


def _rough_seconds(problem: Problem, candidate: Candidate) -> float:
    """The busiest stage's work of a step, over what the bubble formula leaves."""
    costs = _costs(problem, candidate)
    chunks = chunks_from(_boundaries(problem, candidate))
    layer = sum(costs.forward_seconds(chunk) + costs.backward_seconds(chunk) for chunk in chunks)
    head = 3.0 * sum(costs.head_seconds(chunk) for chunk in chunks)
    by_rank = [layer * sum(candidate.layers[rank :: candidate.stages]) for rank in range(candidate.stages)]
    by_rank[-1] += head
    bubble = bubble_formula(
        candidate.schedule,
        stages=candidate.stages,
        microbatches=candidate.microbatches,
        chunks=candidate.chunks,
        virtual_stages=candidate.virtual_stages,
    )
    # Even chunks of uneven cost: the longest paces the pipeline.
    slowest = max(costs.forward_seconds(chunk) + costs.backward_seconds(chunk) for chunk in chunks)
    imbalance = slowest * candidate.chunks / layer if candidate.stages > 1 else 1.0
    work = max(by_rank) * candidate.microbatches
    return work * (1.0 + (imbalance - 1.0) / 2.0) / (1.0 - bubble)


def _quantum(candidate: Candidate) -> int:
    """Microbatches after which the order of a steady pipeline repeats itself."""
    if candidate.schedule == "interleaved":
        return candidate.stages
    if candidate.virtual_stages == 1:
        return 1
    groups = max(1, candidate.microbatches // -(-candidate.stages // candidate.chunks))
    return -(-candidate.microbatches // groups)


def _enough_microbatches(candidate: Candidate) -> int:
    """Whole quanta until a pipeline is steady: twice what it holds, and two more."""
    quantum = _quantum(candidate)
    wanted = 2 * -(-candidate.stages // candidate.chunks) + 2
    return min(candidate.microbatches, quantum * max(3, -(-wanted // quantum)))


def _simulated(problem: Problem, candidate: Candidate, needed: int) -> Outcome:
    costs = _costs(problem, candidate)
    seconds, busy = _step(problem, candidate, costs, candidate.microbatches)
    memory = costs.memory
    parameters = max(candidate.layers) * candidate.virtual_stages * memory.layer_parameters()
    total = seconds + costs.step_extra_seconds(parameters + memory.embedding_parameters())
    sequences = problem.global_batch_size
    return Outcome(
        candidate=candidate,
        step_seconds=total,
        tokens_per_second=sequences * problem.seq_length / total,
        mfu=costs.mfu(
            step_seconds=total,
            sequences=sequences,
            seq_length=problem.seq_length,
            num_devices=problem.num_devices,
        ),
        bubble_fraction=1.0 - busy / seconds,
        memory_bytes=needed,
    )


def _step(
    problem: Problem, candidate: Candidate, costs: DeviceCosts, microbatches: int
) -> tuple[float, float]:
    """Seconds of forward and backward, and how long a rank is busy on average.

    Once the pipeline is steady, further microbatches take as long as the last ones did.
    """
    few, quantum = _enough_microbatches(candidate), _quantum(candidate)
    if microbatches > few:
        first, busy = _step(problem, candidate, costs, few)
        fewer, less_busy = _step(problem, candidate, costs, few - quantum)
        quanta = (microbatches - few) / quantum
        return first + quanta * (first - fewer), busy + quanta * (busy - less_busy)
    sending = _plan(candidate, microbatches)
    tables = costs.costs(_boundaries(problem, candidate), layers_of_virtual_stages=candidate.layers)
    simulation = simulate(sending, tables)
    busy = simulation.makespan_seconds * (1.0 - simulation.bubble_fraction)
    return simulation.makespan_seconds, busy


def _plan(candidate: Candidate, microbatches: int) -> Plan:
    return with_communication(
        make_plan(
            candidate.schedule,
            stages=candidate.stages,
            microbatches=microbatches,
            chunks=candidate.chunks,
            virtual_stages=candidate.virtual_stages,
        )
    )


def _impossible(problem: Problem) -> str:
    """What does not divide, and the nearest numbers of devices for which all does."""

    def has_layouts(num_devices: int) -> bool:
        return any(True for _ in candidates(replace(problem, num_devices=num_devices)))

    possible = nearest(problem.num_devices, filter(has_layouts, range(1, 2 * problem.num_devices + 1)))
    instead = f"{possible} devices" if possible else "another number of devices"
    return (
        f"no layout of {problem.num_devices} devices divides {problem.model.num_layers} layers, "
        f"{problem.model.num_heads} heads, a global batch of {problem.global_batch_size} sequences and "
        f"{problem.seq_length} tokens; use {instead}, or a global batch that so many devices divide"
    )


def _short(problem: Problem, needed: int, candidate: Candidate) -> str:
    short = needed - problem.memory_bytes
    return (
        f"nothing fits {problem.memory_bytes / 1e9:.1f} GB per device: the nearest, {candidate.schedule} "
        f"with tensor parallelism {candidate.tensor_parallel}, {candidate.stages} stages, "
        f"{candidate.chunks} chunks and recomputation {candidate.recompute.value}, needs "
        f"{needed / 1e9:.1f} GB, {short / 1e9:.1f} GB too much; use more devices, more memory or "
        "shorter sequences"
    )
