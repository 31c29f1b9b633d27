"""Mixture of experts: combinations refused with their numbers.

What looks at all tokens of a forward at once (capacity, sinkhorn, a running balance over the global
batch) would depend on how sequences are cut, and is refused by name in `megatron_flag_lists.py`.
Auxiliary losses are those of whole sequences whatever the chunks: `upstream/auxiliary_losses.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from megatron.seq1f1b.config.options import Config
from megatron.seq1f1b.config.sections.experts import ExpertOptions
from megatron.seq1f1b.errors import ConfigurationError


def check_experts(config: Config, *, data_parallel_size: int) -> None:
    """Refuse what cannot run.

    Raises:
        ConfigurationError: with the flags, the numbers and what to change.
    """
    experts = config.experts
    if experts.num_experts is None:
        _refuse_without_experts(experts, config.training.recompute_modules)
        return
    for reason, applies in {
        **_routing(experts),
        **_layout(config, experts, data_parallel_size),
    }.items():
        if applies:
            raise ConfigurationError(reason)


def _refuse_without_experts(experts: ExpertOptions, recompute_modules: Sequence[str]) -> None:
    for module in recompute_modules:
        if module in ("moe", "shared_experts"):
            raise ConfigurationError(f"--recompute-modules {module} needs --num-experts")
    for option in dataclasses.fields(experts):
        if getattr(experts, option.name) != option.default:
            flag = "--" + option.name.replace("_", "-")
            raise ConfigurationError(f"{flag} {getattr(experts, option.name)} needs --num-experts")


def _routing(experts: ExpertOptions) -> dict[str, bool]:
    number, topk = experts.num_experts or 0, experts.moe_router_topk
    groups, group_topk = experts.moe_router_num_groups, experts.moe_router_group_topk
    is_softmax = experts.moe_router_score_function == "softmax"
    coefficient = experts.moe_aux_loss_coeff
    return {
        f"--moe-router-topk {topk} is more than --num-experts {number}; use at most that": topk > number,
        "--moe-router-topk 1 with softmax scores gives every token the score 1, which teaches the router "
        "nothing; add --moe-router-pre-softmax": (
            topk == 1 and is_softmax and not experts.moe_router_pre_softmax
        ),
        f"--moe-router-topk-scaling-factor {experts.moe_router_topk_scaling_factor} changes nothing with a "
        "softmax over the chosen experts; add --moe-router-pre-softmax": (
            experts.moe_router_topk_scaling_factor is not None
            and is_softmax
            and not experts.moe_router_pre_softmax
        ),
        "--moe-router-num-groups and --moe-router-group-topk go together; give both": (
            (groups is None) != (group_topk is None)
        ),
        f"--num-experts {number} is not divisible by --moe-router-num-groups {groups}; change one": (
            groups is not None and number % groups != 0
        ),
        f"--moe-router-topk {topk} experts are to come from --moe-router-group-topk {group_topk} of "
        f"{groups} groups; the groups must be at most {groups}, hold {topk} experts and divide {topk}": (
            groups is not None
            and group_topk is not None
            and (group_topk > groups or topk % group_topk != 0 or group_topk * (number // groups) < topk)
        ),
        f"--moe-aux-loss-coeff {coefficient} is of an auxiliary loss, and --moe-router-load-balancing-type "
        "none has none; leave one out": (
            coefficient > 0 and experts.moe_router_load_balancing_type == "none"
        ),
        "--moe-router-enable-expert-bias needs --moe-router-score-function sigmoid": (
            experts.moe_router_enable_expert_bias and is_softmax
        ),
        f"--moe-apply-probs-on-input needs --moe-router-topk 1, and it is {topk}: an expert's input would "
        "have as many scales as the token has experts": experts.moe_apply_probs_on_input and topk > 1,
        "--moe-shared-expert-gate needs --moe-shared-expert-intermediate-size": (
            experts.moe_shared_expert_gate and experts.moe_shared_expert_intermediate_size is None
        ),
    }


def _layout(config: Config, experts: ExpertOptions, data_parallel_size: int) -> dict[str, bool]:
    parallel = config.parallel
    tp, ep = parallel.tensor_model_parallel_size, experts.expert_model_parallel_size
    return {
        f"--num-experts {experts.num_experts} is not divisible by --expert-model-parallel-size {ep}; change "
        "one of them": (experts.num_experts or 0) % ep != 0,
        f"--expert-model-parallel-size {ep} shares experts among the {data_parallel_size} data-parallel "
        "processes, which it must divide; change it, or start another number of processes": (
            data_parallel_size % ep != 0
        ),
        f"--num-experts with --tensor-model-parallel-size {tp} needs --sequence-parallel, or every process "
        "would route all tokens": tp > 1 and not parallel.sequence_parallel,
        "--num-experts needs --disable-bias-linear: Megatron-Core's experts cannot add biases to what "
        "autograd has seen": not config.model.disable_bias_linear,
        "--recompute-modules shared_experts needs --moe-shared-expert-intermediate-size": (
            "shared_experts" in config.training.recompute_modules
            and experts.moe_shared_expert_intermediate_size is None
        ),
        "--recompute-modules mlp is of layers without experts; use moe": (
            "mlp" in config.training.recompute_modules
        ),
    }
