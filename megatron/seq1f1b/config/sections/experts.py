"""Mixture of experts in the place of each layer's MLP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ExpertOptions:
    """Mixture of experts: which MLPs a token goes through, and where they are."""

    num_experts: int | None = None
    """Experts of every layer; none, each layer has one MLP."""
    moe_ffn_hidden_size: int | None = None
    """Width of one expert; --ffn-hidden-size."""
    moe_shared_expert_intermediate_size: int | None = None
    """Width of an MLP that every token goes through beside its experts; none."""
    moe_shared_expert_gate: bool = False
    """Let every token weigh what that MLP adds, by a sigmoid of its own."""
    moe_router_topk: int = 2
    """Experts that a token goes to."""
    moe_router_load_balancing_type: Literal["aux_loss", "seq_aux_loss", "none"] = "aux_loss"
    """Over what the auxiliary loss balances experts: a microbatch, or each sequence."""
    moe_aux_loss_coeff: float = 0.0
    """Weight of the auxiliary loss; 1e-2 is usual."""
    moe_z_loss_coeff: float | None = None
    """Weight of the router's z-loss; none."""
    moe_router_score_function: Literal["softmax", "sigmoid"] = "softmax"
    """From a router's logits to scores."""
    moe_router_pre_softmax: bool = False
    """Softmax over all experts, before the choice, instead of over the chosen ones."""
    moe_router_topk_scaling_factor: float | None = None
    """Factor of the chosen experts' scores; needs --moe-router-pre-softmax or sigmoid scores."""
    moe_router_num_groups: int | None = None
    """Groups of experts; a token goes to experts of --moe-router-group-topk of them."""
    moe_router_group_topk: int | None = None
    """Groups of experts that a token may go to."""
    moe_router_enable_expert_bias: bool = False
    """Balance without a loss: a bias per expert that follows its load; needs sigmoid scores."""
    moe_router_bias_update_rate: float = 1e-3
    """Step by which that bias follows."""
    moe_router_dtype: Literal["fp32", "fp64"] | None = None
    """Precision of the routers' logits; that of the model."""
    moe_apply_probs_on_input: bool = False
    """With --moe-router-topk 1: scale what an expert gets by its score, instead of what it gives."""
    moe_per_layer_logging: bool = False
    """The auxiliary losses of every layer in metrics.jsonl and charts, beside their means."""
    moe_token_dispatcher_type: Literal["allgather", "alltoall"] = "allgather"
    """How tokens get to experts on other processes."""
    expert_model_parallel_size: int = 1
    """Data-parallel processes that share the experts of each layer."""
