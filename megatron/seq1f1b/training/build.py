"""Builds what a run trains: Megatron-Core's model parts, DDP, optimizer and learning-rate schedule."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.optimizer import MegatronOptimizer, OptimizerConfig
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.core.transformer.module import Float16Module
from megatron.core.transformer.transformer_config import TransformerConfig

from megatron.seq1f1b.config import Activation
from megatron.seq1f1b.model.activations import quick_gelu, squared_relu, tanh_gelu
from megatron.seq1f1b.model.gpt import ModelShape, build_model_part
from megatron.seq1f1b.training.prepare import Run
from megatron.seq1f1b.upstream import is_cpu_only
from megatron.seq1f1b.upstream.optimizers import make_optimizer


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training step updates; `parts` has one entry per virtual stage of this rank."""

    transformer: TransformerConfig
    parts: list[DistributedDataParallel]
    optimizer: MegatronOptimizer
    scheduler: OptimizerParamScheduler
    optimizer_text: str
    """What updates the weights, and whose it is."""


def build(run: Run, *, params_dtype: torch.dtype | None = None) -> Trained:
    """Build this process's share of a run; parallel state must be initialised.

    `params_dtype` overrides the precision of the configuration (float64 in tests).
    """
    dtype = params_dtype or dtype_of(run)
    transformer = transformer_config(run, dtype)
    bare = [_in_precision(part, transformer) for part in model_parts(run, transformer)]
    ddp = _data_parallel_config(run, transformer, bare)
    parts = [DistributedDataParallel(transformer, dataclasses.replace(ddp), part) for part in bare]
    optimizer, optimizer_text = make_optimizer(_optimizer_config(run, dtype), parts)
    transformer.grad_scale_func = optimizer.scale_loss
    transformer.finalize_model_grads_func = finalize_model_grads
    if run.layout.uses_upstream_schedule:
        no_sync = [part.no_sync for part in parts]
        transformer.no_sync_func = no_sync if len(parts) > 1 else no_sync[0]
    return Trained(
        transformer=transformer,
        parts=parts,
        optimizer=optimizer,
        scheduler=_scheduler(run, optimizer),
        optimizer_text=optimizer_text,
    )


def dtype_of(run: Run) -> torch.dtype:
    """What a run computes in."""
    if run.config.training.fp16:
        return torch.float16
    return torch.bfloat16 if run.config.training.bf16 else torch.float32


def transformer_config(run: Run, dtype: torch.dtype) -> TransformerConfig:
    """Megatron-Core's configuration of the model and its parallelism."""
    return TransformerConfig(**_model_fields(run), **_expert_fields(run), **_parallel_fields(run, dtype))


def _model_fields(run: Run) -> dict[str, Any]:
    """The shape of the model, and what of it is recomputed."""
    model, positions, recompute = run.config.model, run.config.positions, run.layout.recompute
    return {
        "num_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "ffn_hidden_size": run.layout.ffn_hidden_size,
        "num_attention_heads": model.num_attention_heads,
        "num_query_groups": run.layout.num_query_groups,
        "kv_channels": run.layout.kv_channels,
        "normalization": model.normalization,
        "layernorm_epsilon": model.norm_epsilon,
        "layernorm_zero_centered_gamma": model.apply_layernorm_1p,
        "qk_layernorm": model.qk_layernorm,
        "qk_l2_norm": model.qk_l2_norm,
        "attention_output_gate": model.attention_output_gate,
        "softmax_scale": model.softmax_scale,
        "rotary_interleaved": positions.rotary_interleaved,
        "no_rope_freq": positions.no_rope_freq,
        "gated_linear_unit": run.layout.activation.is_gated,
        "activation_func": _ACTIVATIONS[run.layout.activation],
        "glu_linear_offset": model.glu_linear_offset,
        "activation_func_clamp_value": model.activation_func_clamp_value,
        "add_bias_linear": not model.disable_bias_linear,
        "add_qkv_bias": model.add_qkv_bias,
        "init_method_std": model.init_method_std,
        "embedding_init_method_std": model.embedding_init_method_std,
        "hidden_dropout": model.hidden_dropout,
        "attention_dropout": model.attention_dropout,
        "recompute_granularity": recompute.granularity,
        "recompute_method": recompute.method,
        "recompute_num_layers": recompute.num_layers,
        "recompute_modules": list(recompute.modules) or None,
        "window_size": run.layout.window_size,
        "window_attn_skip_freq": model.window_attn_skip_freq,
        # Weights are set by `initialize_weights`, whatever the layout; only the parameters'
        # attributes are wanted from Megatron-Core's initialisation.
        "init_method": _leave_as_is,
        "output_layer_init_method": _leave_as_is,
        "embedding_init_method": _leave_as_is,
    }


def _expert_fields(run: Run) -> dict[str, Any]:
    """The experts of every layer; nothing where each has one MLP."""
    options = dataclasses.asdict(run.config.experts)
    num_experts = options.pop("num_experts")
    if num_experts is None:
        return {}
    width = options.pop("moe_ffn_hidden_size") or run.layout.ffn_hidden_size
    return {"num_moe_experts": num_experts, "moe_ffn_hidden_size": width, **options}


_ACTIVATIONS: dict[Activation, Callable[[torch.Tensor], torch.Tensor]] = {
    Activation.GELU: F.gelu,
    Activation.TANH_GELU: tanh_gelu,
    Activation.SQUARED_RELU: squared_relu,
    Activation.SWIGLU: F.silu,
    Activation.QUICK_GEGLU: quick_gelu,
}


def _parallel_fields(run: Run, dtype: torch.dtype) -> dict[str, Any]:
    """How the model is laid over processes, and in which precision it computes."""
    parallel, virtual = run.config.parallel, run.layout.num_virtual_stages
    return {
        "tensor_model_parallel_size": parallel.tensor_model_parallel_size,
        "sequence_parallel": parallel.sequence_parallel,
        "pipeline_model_parallel_size": parallel.pipeline_model_parallel_size,
        "virtual_pipeline_model_parallel_size": virtual if virtual > 1 else None,
        "pipeline_model_parallel_layout": _pipeline_layout(run),
        "pipeline_dtype": dtype,
        "params_dtype": dtype,
        "bf16": dtype == torch.bfloat16,
        "fp16": dtype == torch.float16,
        "use_cpu_initialization": is_cpu_only(),
        "calculate_per_token_loss": run.config.training.calculate_per_token_loss,
        "deterministic_mode": run.config.training.deterministic_mode,
        "disable_bf16_reduced_precision_matmul": run.config.training.disable_bf16_reduced_precision_matmul,
        "gradient_accumulation_fusion": False,
        # With the previous and the next rank the same one, batched messages of Megatron-Core's
        # interleaved schedule cross, silently.
        "batch_p2p_comm": False,
        "deallocate_pipeline_outputs": True,
        "cuda_graph_scope": [],
    }


def _pipeline_layout(run: Run) -> list[list[str]] | None:
    """What each virtual stage has, whichever flags said it."""
    if run.config.parallel.pipeline_model_parallel_size == 1:
        return None
    layout = [["decoder"] * count for count in run.layout.layers_of_virtual_stages]
    return [["embedding", *layout[0]], *layout[1:-1], [*layout[-1], "loss"]]


def _leave_as_is(weight: torch.Tensor) -> torch.Tensor:
    return weight


def model_parts(run: Run, transformer: TransformerConfig) -> list[torch.nn.Module]:
    """This rank's parts of the model, one per virtual stage, bare."""
    model, positions = run.config.model, run.config.positions
    shape = ModelShape(
        vocab_size=run.tokenizer.vocab_size,
        padded_vocab_size=run.dimensions.padded_vocab_size,
        max_position_embeddings=run.layout.max_position_embeddings,
        position_embedding_type=positions.position_embedding_type,
        rotary_base=positions.rotary_base,
        rotary_percent=positions.rotary_percent,
        rotary_interpolation_factor=positions.rotary_seq_len_interpolation_factor,
        rope_scaling_factor=positions.rope_scaling_factor if positions.use_rope_scaling else None,
        is_output_tied=not model.untie_embeddings_and_output_weights,
        has_xavier_weights=model.init_method_xavier_uniform,
        seed=run.config.training.seed,
        attention_backend=model.attention_backend,
        cross_entropy_slice_tokens=run.config.training.cross_entropy_slice_tokens,
    )
    virtual = run.layout.num_virtual_stages
    stages = range(virtual) if virtual > 1 else [None]
    return [build_model_part(transformer, shape, vp_stage=stage) for stage in stages]


def _in_precision(part: torch.nn.Module, transformer: TransformerConfig) -> torch.nn.Module:
    """The part in its compute precision, on this process's device."""
    if not is_cpu_only():
        part.cuda(torch.cuda.current_device())
    return Float16Module(transformer, part) if transformer.bf16 or transformer.fp16 else part


def _data_parallel_config(
    run: Run, transformer: TransformerConfig, parts: Sequence[torch.nn.Module]
) -> DistributedDataParallelConfig:
    parallel = run.config.parallel
    bucket_size = parallel.ddp_bucket_size
    if parallel.ddp_num_buckets is not None:
        bucket_size = sum(each.numel() for part in parts for each in part.parameters())
        bucket_size = max(1, bucket_size // parallel.ddp_num_buckets)
    return DistributedDataParallelConfig(
        **_same_fields(DistributedDataParallelConfig, parallel),
        grad_reduce_in_fp32=(transformer.bf16 or transformer.fp16) and not parallel.grad_reduce_in_bf16,
        bucket_size=bucket_size,
        pad_buckets_for_high_nccl_busbw=parallel.ddp_pad_buckets_for_high_nccl_busbw,
        average_in_collective=parallel.ddp_average_in_collective,
        reduce_scatter_with_fp32_accumulation=parallel.ddp_reduce_scatter_with_fp32_accumulation,
    )


def _optimizer_config(run: Run, dtype: torch.dtype) -> OptimizerConfig:
    config = run.config
    same = _same_fields(OptimizerConfig, config.optimizer, config.training, config.parallel, config.logging)
    precision = {"bf16": dtype == torch.bfloat16, "fp16": dtype == torch.float16, "params_dtype": dtype}
    return OptimizerConfig(**(same | precision))


def _same_fields(core: type, *sections: Any) -> dict[str, Any]:
    """The options that have the name of a field of Megatron-Core's."""
    names = {field.name for field in dataclasses.fields(core)}
    return {
        option.name: getattr(section, option.name)
        for section in sections
        for option in dataclasses.fields(section)
        if option.name in names
    }


def _scheduler(run: Run, optimizer: MegatronOptimizer) -> OptimizerParamScheduler:
    """Learning rate and weight decay by consumed samples, as Megatron counts them."""
    options, lengths = run.config.optimizer, run.layout.learning_rate
    return OptimizerParamScheduler(
        optimizer,
        init_lr=options.lr_warmup_init,
        max_lr=options.lr,
        min_lr=options.min_lr,
        lr_warmup_steps=lengths.warmup_samples,
        lr_decay_steps=lengths.decay_samples,
        lr_decay_style=options.lr_decay_style,
        start_wd=lengths.start_weight_decay,
        end_wd=lengths.end_weight_decay,
        wd_incr_steps=lengths.weight_decay_samples,
        wd_incr_style=options.weight_decay_incr_style,
        wsd_decay_steps=lengths.wsd_decay_samples,
        lr_wsd_decay_style=options.lr_wsd_decay_style,
    )
