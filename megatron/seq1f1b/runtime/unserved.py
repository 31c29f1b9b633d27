"""What chunked schedules do not serve, by name, with the reason and what to change.

Megatron-Core's schedule functions read these keywords and fields of `ModelParallelConfig` and
`TransformerConfig`; whatever is not here is either honoured or means nothing under any schedule.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from megatron.seq1f1b.errors import ConfigurationError
from megatron.seq1f1b.schedule import Plan
from megatron.seq1f1b.schedule.single_queue import stuck_in_one_queue

UNSERVED_FIELDS: Mapping[str, str] = {
    "defer_embedding_wgrad_compute": (
        "it pairs activations with gradients in the order of forwards, and chunks come back reversed; "
        "turn it off"
    ),
    "delay_wgrad_compute": "use schedule 'seq1f1b-zb', which delays weight gradients, instead",
    "overlap_moe_expert_parallel_comm": (
        "it interleaves whole microbatches; turn it off, other chunks' work already fills the gaps"
    ),
    "hybrid_context_parallel": "chunks already divide the sequence; turn it off",
    "variable_seq_lengths": (
        "shapes of messages follow from seq_length; turn it off, and give each step its own seq_length"
    ),
    "mtp_num_layers": "multi-token prediction looks at tokens of the next chunk; leave it out",
    "num_microbatches_with_partial_activation_checkpoints": (
        "recomputation is the same for every chunk; use recompute_granularity instead"
    ),
    "fine_grained_activation_offloading": "it counts whole microbatches; turn it off",
    "cpu_offloading": "it knows nothing of the KV cache; turn it off, or use recompute_granularity",
    "tp_comm_overlap": "its buffers have the size of whole sequences; turn it off",
    "use_ring_exchange_p2p": "chunked schedules have channels of their own; turn it off",
    "is_hybrid_model": "layers without attention carry a state that chunks do not hand on",
    "experimental_attention_variant": "only softmax attention is chunked; leave it out",
}
"""Fields of the configuration that must be off, with why and what to do."""


def refuse_unserved(config: Any, *, num_stages: int, num_parts: int) -> None:
    """Refuse what a configuration asks for and chunked schedules would ignore or get wrong.

    Args:
        config: Megatron-Core's `TransformerConfig`.
        num_stages: p.
        num_parts: model parts of a rank, v.

    Raises:
        ConfigurationError: names every such field, with why and what to change.
    """
    reasons = [f"{name}: {why}" for name, why in UNSERVED_FIELDS.items() if getattr(config, name, None)]
    if getattr(config, "cuda_graph_impl", "none") != "none":
        reasons.append("cuda_graph_impl: chunks of one layer differ in shape; use 'none'")
    if config.context_parallel_size > 1:
        reasons.append(
            f"context_parallel_size {config.context_parallel_size}: chunks already divide the sequence; use 1"
        )
    if config.pipeline_model_parallel_comm_backend == "ucc":
        reasons.append("pipeline_model_parallel_comm_backend 'ucc': use 'nccl' or leave it out")
    group = config.microbatch_group_size_per_vp_stage
    if num_parts > 1 and group not in (None, num_stages):
        reasons.append(
            f"microbatch_group_size_per_vp_stage {group}: chunked schedules group microbatches by "
            "themselves; leave it out"
        )
    if num_stages > 1 and config.pipeline_dtype is None:
        reasons.append("pipeline_dtype is None: say in which type stages exchange activations")
    _refuse(reasons)


def refuse_keywords(**asked: bool) -> None:
    """Refuse keywords of a schedule function that are not served; True where one was given.

    Raises:
        ConfigurationError: names them.
    """
    _refuse([f"{name}: leave it out" for name, is_asked in asked.items() if is_asked])


def refuse_in_one_queue(plan: Plan) -> None:
    """Refuse a plan that would stand still on devices that start all work from one queue.

    Raises:
        ConfigurationError: with the actions at which it would, and what to change.
    """
    if os.environ.get("CUDA_DEVICE_MAX_CONNECTIONS") != "1" or not torch.cuda.is_available():
        return
    stuck = stuck_in_one_queue(plan)
    if stuck:
        raise ConfigurationError(
            f"with CUDA_DEVICE_MAX_CONNECTIONS=1 the plan {plan.name} of {plan.num_stages} stages, "
            f"{plan.num_microbatches} microbatches and {plan.num_chunks} chunks would stand still at "
            f"{', '.join(stuck)}; set it to 8, use chunks that divide the stages (and microbatches that are "
            "a multiple of stages / chunks), or a schedule without virtual stages"
        )


def _refuse(reasons: list[str]) -> None:
    if reasons:
        raise ConfigurationError(
            f"chunked schedules do not serve {'; '.join(reasons)}. Or use Megatron-Core's own schedule"
        )
