"""The range of every number, whatever the others are."""

from __future__ import annotations

import dataclasses
import math

from megatron.seq1f1b.config.options import Config
from megatron.seq1f1b.errors import ConfigurationError

_AT_LEAST_ONE = frozenset(
    {
        "num_layers",
        "hidden_size",
        "ffn_hidden_size",
        "num_attention_heads",
        "num_query_groups",
        "num_experts",
        "moe_ffn_hidden_size",
        "moe_shared_expert_intermediate_size",
        "moe_router_topk",
        "moe_router_num_groups",
        "moe_router_group_topk",
        "expert_model_parallel_size",
        "kv_channels",
        "rotary_base",
        "max_position_embeddings",
        "make_vocab_size_divisible_by",
        "tensor_model_parallel_size",
        "pipeline_model_parallel_size",
        "distributed_timeout_minutes",
        "pipe_sp_splits",
        "seq_length",
        "micro_batch_size",
        "global_batch_size",
        "train_iters",
        "train_samples",
        "recompute_num_layers",
        "cross_entropy_slice_tokens",
        "lr_decay_samples",
        "lr_wsd_decay_iters",
        "lr_wsd_decay_samples",
        "window_attn_skip_freq",
        "no_rope_freq",
        "log_interval",
        "num_dataset_builder_threads",
        "ddp_bucket_size",
        "ddp_num_buckets",
        "tensorboard_log_interval",
        "tensorboard_queue_size",
        "eval_interval",
        "lr_decay_iters",
        "save_interval",
        "keep_latest",
        "loss_scale_window",
        "hysteresis",
        "timeline",
        "parity_check",
        "exit_interval",
        "exit_duration_in_mins",
        "world_size",
        "allocator_overhead",
    }
)
_AT_LEAST_ZERO = frozenset(
    {
        "seed",
        "eval_iters",
        "lr_warmup_iters",
        "lr_warmup_samples",
        "start_weight_decay",
        "end_weight_decay",
        "lr_warmup_init",
        "min_lr",
        "decoupled_min_lr",
        "weight_decay",
        "moe_aux_loss_coeff",
        "moe_z_loss_coeff",
        "clip_grad",
        "num_workers",
        "ckpt_step",
        "zero_bubble_max_pending_weight_grads",
        "manual_gc_interval",
    }
)
_POSITIVE = frozenset(
    {
        "lr",
        "decoupled_lr",
        "loss_scale",
        "initial_loss_scale",
        "min_loss_scale",
        "norm_epsilon",
        "adam_eps",
        "init_method_std",
        "embedding_init_method_std",
        "softmax_scale",
        "activation_func_clamp_value",
        "rotary_seq_len_interpolation_factor",
        "rope_scaling_factor",
        "parity_tolerance",
        "moe_router_topk_scaling_factor",
        "moe_router_bias_update_rate",
    }
)
_BELOW_ONE = frozenset(
    {"adam_beta1", "adam_beta2", "sgd_momentum", "lr_warmup_fraction", "hidden_dropout", "attention_dropout"}
)


def check_ranges(config: Config) -> None:
    """Refuse the first number that is outside its range.

    Raises:
        ConfigurationError: with the flag, the number and the range.
    """
    for section in dataclasses.fields(config):
        options = getattr(config, section.name)
        for option in dataclasses.fields(options):
            value = getattr(options, option.name)
            if isinstance(value, int | float) and not isinstance(value, bool):
                _check(option.name, value)


def _check(name: str, value: float) -> None:
    wanted = None
    if not math.isfinite(value):
        wanted = "a finite number"
    elif name in _AT_LEAST_ONE and value < 1:
        wanted = "at least 1"
    elif name in _AT_LEAST_ZERO and value < 0:
        wanted = "0 or more"
    elif name in _POSITIVE and value <= 0:
        wanted = "more than 0"
    elif name in _BELOW_ONE and not 0 <= value < 1:
        wanted = "at least 0 and less than 1"
    elif name == "rotary_percent" and not 0 < value <= 1:
        wanted = "more than 0 and at most 1"
    elif name == "seed" and value >= 2**31:
        wanted = "less than 2^31"
    if wanted is not None:
        raise ConfigurationError(f"--{name.replace('_', '-')} {value} must be {wanted}")
