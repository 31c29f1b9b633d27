"""What a stage holds while it runs its actions in order: activations, KV caches, dKV buffers.

A forward keeps its chunk's activations until the weight gradients are computed (by B, or by W). A
virtual stage holds the KV cache of a microbatch from its first chunk's forward until that chunk's
backward, and the dKV buffer from the last chunk's backward until the first's; with one chunk there
is no prefix, hence no dKV. Forward-only plans keep no activations, and a KV cache until the last
chunk has passed. Only the order matters, so none of this depends on costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from megatron.seq1f1b.schedule.action import ActionKind
from megatron.seq1f1b.schedule.plan import Plan


class Occupancy(NamedTuple):
    """The most that one stage holds at a time."""

    peak_activations: float
    """In units of one stage's activations of one whole microbatch."""
    peak_kv_caches: int
    """Caches of one virtual stage and microbatch."""
    peak_dkv_buffers: int
    """Buffers of one virtual stage and microbatch."""


def occupancy_of(plan: Plan, rank: int, token_shares: Sequence[float]) -> Occupancy:
    """Walk one rank's actions; what an action frees is still held while it runs."""
    weights = [share / plan.num_virtual_stages for share in token_shares]
    first, last = 0, plan.num_chunks - 1
    keeps = not plan.forward_only
    activations = peak_activations = 0.0
    kv = peak_kv = dkv = peak_dkv = 0
    for kind, _, _, chunk in plan.actions[rank]:
        if kind is ActionKind.F:
            if keeps:
                activations += weights[chunk]
                peak_activations = max(peak_activations, activations)
            if chunk == first:
                kv += 1
                peak_kv = max(peak_kv, kv)
            if chunk == last and not keeps:
                kv -= 1
        elif kind is ActionKind.B or kind is ActionKind.I:
            if chunk == last and last != first:
                dkv += 1
                peak_dkv = max(peak_dkv, dkv)
            if chunk == first:
                kv -= 1
                dkv -= last != first
            if kind is ActionKind.B:
                activations -= weights[chunk]
        elif kind is ActionKind.W:
            activations -= weights[chunk]
    return Occupancy(peak_activations, peak_kv, peak_dkv)
