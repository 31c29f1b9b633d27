"""The parameters of the whole model, each counted once: how many they are, and their norm.

A tied embedding lies on two stages, a norm's weights on every tensor-parallel process, and an
expert on the processes of its expert-parallel group alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from megatron.seq1f1b.training.build import Trained


def own_parameters(trained: Trained, *, is_expert: bool) -> Iterator[torch.nn.Parameter]:
    """This process's share of the model's parameters, which a sum over the model's processes counts once."""
    for part in trained.parts:
        for parameter in part.parameters():
            is_copy = getattr(parameter, "shared", False)
            is_sharded = getattr(parameter, "tensor_model_parallel", False)
            is_first = parallel_state.get_tensor_model_parallel_rank() == 0
            # Experts alone are left out of the reduction over all data-parallel processes.
            is_of_expert = not getattr(parameter, "allreduce", True)
            if is_of_expert == is_expert and not is_copy and (is_sharded or is_first):
                yield parameter


def num_parameters(trained: Trained) -> int:
    """Parameters of the whole model, padding included; collective."""
    return int(_sum_over_model(trained, lambda parameter: torch.tensor(parameter.numel())))


def parameter_norm(trained: Trained) -> float:
    """L2 norm of the whole model's parameters, as they compute; collective."""
    if trained.parts[0].ddp_config.overlap_param_gather:
        # The last update's parameters are gathered by the next forward, which is yet to come.
        for part in trained.parts:
            part.start_param_sync(force_sync=True)
    return math.sqrt(_sum_over_model(trained, _square_sum))


def _square_sum(parameter: torch.nn.Parameter) -> torch.Tensor:
    norm = torch.linalg.vector_norm(
        parameter.detach(), dtype=torch.promote_types(parameter.dtype, torch.float32)
    )
    return norm.double().square()


def _sum_over_model(trained: Trained, figure: Callable[[torch.nn.Parameter], torch.Tensor]) -> float:
    """The sum of a figure over the parameters of the whole model."""
    groups = {False: parallel_state.get_model_parallel_group()}
    if trained.transformer.expert_model_parallel_size > 1:
        groups[True] = parallel_state.get_expert_tensor_model_pipeline_parallel_group()
    sums = []
    for is_expert, group in groups.items():
        figures = [figure(parameter) for parameter in own_parameters(trained, is_expert=is_expert)]
        total = torch.zeros((), dtype=torch.float64, device=torch.cuda.current_device())
        for each in figures:
            total += each.to(total.device)
        dist.all_reduce(total, group=group)
        sums.append(total)
    return float(torch.stack(sums).sum())
