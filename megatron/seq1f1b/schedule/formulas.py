"""Bubble and memory of the schedules in closed form, for chunks and stages of equal cost.

Valid for B = 2 F, or I = W = F where the backward is split, and messages that take no time. The
simulator agrees to rounding for every p, m, k up to 8 and v up to 3 (`benchmarks/schedule_grid.py`).

The step takes as long as the larger of two chains, counted in units of one forward and backward:

    v k m + p - 1    the last stage waits p - 1 forwards, works without a gap, and the gradient of
                     its last unit goes up again
    p v + k m - 1    the first unit passes all p v virtual stages before the last of them starts;
                     with fewer than p units this is longer, and no order can beat it
"""

from __future__ import annotations

from megatron.seq1f1b.schedule.grouping import cut_rounds, units_ahead


def bubble_formula(
    name: str,
    *,
    stages: int,
    microbatches: int,
    chunks: int = 1,
    virtual_stages: int = 1,
    forward_only: bool = False,
) -> float:
    """The idle share of the whole pipeline's time.

    With fewer than p units in all the second chain above counts; otherwise this is
    (p-1) / (v k m + p-1), and for `seq1f1b-zb` (p-1) / (3 k m + p-1).
    """
    units = chunks * microbatches
    if name == "seq1f1b-zb" and not forward_only:
        # A step of few units has too few weight gradients to put off: the gap left is the rest.
        idle = max(stages - 1, 2 * (stages - 1) - (units - chunks))
        return idle / (3 * units + idle)
    busy = virtual_stages * units
    return 1.0 - busy / max(busy + stages - 1, stages * virtual_stages + units - 1)


def peak_formula(
    name: str,
    *,
    stages: int,
    microbatches: int,
    chunks: int = 1,
    virtual_stages: int = 1,
    stage: int = 0,
) -> float:
    """The most activations that a stage keeps for its backwards in a training step.

    The unit is one stage's activations of one whole microbatch, so a chunk of one virtual stage
    counts 1 / (k v).
    """
    total = chunks * microbatches * virtual_stages
    below = stages - 1 - stage
    if name == "seq1f1b-zb":
        held = chunks + stages - 1
    elif virtual_stages == 1:
        held = chunks + below
    else:
        rounds = cut_rounds(stages=stages, microbatches=microbatches, chunks=chunks)
        held = (virtual_stages - 1) * units_ahead(rounds) + 2 * below + chunks
    return min(held, total) / (chunks * virtual_stages)
