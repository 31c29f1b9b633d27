"""How far two computations of the same gradients are apart, parameter by parameter, over all processes.

The relative difference of a parameter is the norm of the difference over the norm of its gradient, on
one process's shard. A gradient can be tiny or, in exact arithmetic, zero, and then is rounding errors
of larger terms; so a gradient's norm counts as at least `FLOOR` times what it would be if all
parameters had gradients of one size. Queries, keys and values are told apart where one matrix makes all
three, since the gradients of keys are often much smaller than those of values beside them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from megatron.seq1f1b.model.initialization import global_parameters
from megatron.seq1f1b.training.build import Trained
from megatron.seq1f1b.training.checkpoint.state import model_parts
from megatron.seq1f1b.upstream.parallel import pipeline_rank

FLOOR = 0.1


class Difference(NamedTuple):
    """Of one parameter's gradient, or of the loss; larger ones sort last."""

    relative: float
    absolute: float
    """Largest of any element."""
    name: str
    """In the whole model, with the pipeline stage that holds it."""


def named_gradients(trained: Trained) -> Iterator[tuple[str, torch.Tensor]]:
    """The final gradients of this process, loss scale and all."""
    for part in model_parts(trained).values():
        for name, parameter in global_parameters(part):
            gradient: torch.Tensor = parameter.main_grad  # type: ignore[attr-defined]
            if name.endswith(("linear_qkv.weight", "linear_qkv.bias")):
                yield from _queries_keys_values(name, gradient, trained)
            else:
                yield name, gradient


def _queries_keys_values(
    name: str, gradient: torch.Tensor, trained: Trained
) -> Iterator[tuple[str, torch.Tensor]]:
    """Rows of the fused projection: per group its query heads, its key head and its value head.

    A process may hold a part of a group, so a row is told by its place in the whole projection.
    """
    config = trained.transformer
    heads = config.num_attention_heads // config.num_query_groups
    first = parallel_state.get_tensor_model_parallel_rank() * len(gradient)
    rows = torch.arange(first, first + len(gradient), device=gradient.device)
    head = rows // config.kv_channels % (heads + 2)
    for what, chosen in (("queries", head < heads), ("keys", head == heads), ("values", head > heads)):
        if chosen.any():
            yield f"{name} ({what})", gradient[chosen]


def kept_gradients(trained: Trained) -> dict[str, torch.Tensor]:
    """A copy in host memory."""
    return {name: gradient.to("cpu", copy=True) for name, gradient in named_gradients(trained)}


def largest_difference(trained: Trained, expected: Mapping[str, torch.Tensor], *, scale: float) -> Difference:
    """The largest relative difference on any process, equal on all; `scale` is the loss scale.

    A difference that is not a number counts as infinite.
    """
    typical = _typical_size(expected) * FLOOR
    worst = Difference(0.0, 0.0, "every parameter")
    stage = pipeline_rank()
    for name, gradient in named_gradients(trained):
        wanted = expected[name].to(gradient.device).float()
        apart = gradient.float() - wanted
        least = typical * math.sqrt(wanted.numel())
        size = max(float(wanted.norm()), least)
        relative = 0.0 if torch.equal(gradient, expected[name].to(gradient.device)) else _ratio(apart, size)
        absolute = float(apart.abs().max()) / scale
        worst = max(worst, Difference(relative, absolute, f"{name} on stage {stage}"), key=_size)
    everyone: list[Difference] = [worst] * dist.get_world_size()
    dist.all_gather_object(everyone, worst)
    return max(everyone, key=_size)


def _size(difference: Difference) -> float:
    return difference.relative


def _ratio(apart: torch.Tensor, size: float) -> float:
    norm = float(apart.norm())
    if not math.isfinite(norm) or not math.isfinite(size) or size == 0.0:
        return math.inf
    return norm / size


def _typical_size(expected: Mapping[str, torch.Tensor]) -> float:
    """Root mean square of all elements over all processes."""
    squares = sum(float(gradient.double().square().sum()) for gradient in expected.values())
    count = sum(gradient.numel() for gradient in expected.values())
    device = torch.device(torch.cuda.current_device())
    totals = torch.tensor([squares, float(count)], dtype=torch.float64, device=device)
    dist.all_reduce(totals)
    return math.sqrt(float(totals[0] / totals[1]))
