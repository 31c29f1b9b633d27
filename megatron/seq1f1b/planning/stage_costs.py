"""The simulator's tables from what a layer and the head cost, in whatever unit that is.

`flop_costs` counts floating-point operations; `device_costs.py` has a device's seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from megatron.seq1f1b.chunk import Chunk, chunks_from
from megatron.seq1f1b.model.flops import BACKWARD_OF_LINEAR, backward_flops, forward_flops
from megatron.seq1f1b.planning.from_run import RunLike
from megatron.seq1f1b.schedule import Costs


@dataclass(frozen=True, kw_only=True, slots=True)
class CostOfChunk:
    """What a chunk costs one layer, or the head."""

    forward: Callable[[Chunk], float]
    backward: Callable[[Chunk], float]
    """The whole backward."""
    weight_grad: Callable[[Chunk], float]
    """The half of it that gives the weights' gradients."""


def stage_costs(
    chunks: Sequence[Chunk], layers_of_virtual_stages: Sequence[int], *, layer: CostOfChunk, head: CostOfChunk
) -> Costs:
    """Tables by virtual stage and chunk, messages for nothing; the last virtual stage has the head."""

    def table(of_layer: Callable[[Chunk], float], of_head: Callable[[Chunk], float]) -> list[list[float]]:
        by_layer = [of_layer(chunk) for chunk in chunks]
        rows = [[layers * cost for cost in by_layer] for layers in layers_of_virtual_stages]
        rows[-1] = [cost + of_head(chunk) for cost, chunk in zip(rows[-1], chunks, strict=True)]
        return rows

    backward = table(layer.backward, head.backward)
    weight_grad = table(layer.weight_grad, head.weight_grad)
    return Costs(
        forward_seconds=table(layer.forward, head.forward),
        backward_seconds=backward,
        input_grad_seconds=[
            [whole - half for whole, half in zip(*rows, strict=True)]
            for rows in zip(backward, weight_grad, strict=True)
        ],
        weight_grad_seconds=weight_grad,
        token_shares=[chunk.length / chunks[-1].stop for chunk in chunks],
    )


def flop_costs(run: RunLike) -> Costs:
    """Of a run, in floating-point operations instead of seconds."""
    dimensions = run.dimensions

    def head(chunk: Chunk) -> float:
        return chunk.length * dimensions.head_flops_per_token

    return stage_costs(
        chunks_from(run.boundaries),
        run.layout.layers_of_virtual_stages,
        layer=CostOfChunk(
            forward=lambda chunk: forward_flops(dimensions, chunk.start, chunk.stop),
            backward=lambda chunk: backward_flops(dimensions, chunk.start, chunk.stop),
            weight_grad=lambda chunk: chunk.length * dimensions.layer_flops_per_token,
        ),
        head=CostOfChunk(
            forward=head, backward=lambda chunk: BACKWARD_OF_LINEAR * head(chunk), weight_grad=head
        ),
    )
