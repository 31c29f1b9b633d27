"""Whether a checkpoint is of the model that a run trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megatron.seq1f1b.config import Config, PositionOptions
from megatron.seq1f1b.errors import CheckpointError
from megatron.seq1f1b.training.checkpoint.manifest import Manifest
from megatron.seq1f1b.training.console import say
from megatron.seq1f1b.training.prepare import Run

LEARNED = "learned_absolute"
_STRETCHING = ("--rotary-base", "--rotary-seq-len-interpolation-factor", "--rope-scaling-factor")
"""What fine-tuning on longer sequences may change: the weights stay those that they were."""
DISTRIBUTED = "--use-distributed-optimizer"
HALF = ("--bf16", "--fp16")
_EXPERTS_APART = "--expert-model-parallel-size above 1"
CONVERTED = (DISTRIBUTED, *HALF, _EXPERTS_APART)
"""Of `optimizer_of`: either state is read whichever wrote it."""


def model_of(run: Run) -> dict[str, Any]:
    """The hyperparameters that decide the weights' names, shapes and meaning, by flag."""
    model, kind = run.config.model, run.config.positions.position_embedding_type
    return {
        "--num-layers": model.num_layers,
        "--hidden-size": model.hidden_size,
        "--ffn-hidden-size": run.layout.ffn_hidden_size,
        "--num-attention-heads": model.num_attention_heads,
        "--num-query-groups": run.layout.num_query_groups,
        "--kv-channels": run.layout.kv_channels,
        "--swiglu": model.swiglu,
        **_experts_of(run),
        **_variants_of(run),
        "--normalization": model.normalization,
        "--qk-layernorm": model.qk_layernorm,
        "--disable-bias-linear": model.disable_bias_linear,
        "--add-qkv-bias": model.add_qkv_bias,
        "--position-embedding-type": kind,
        "--max-position-embeddings": run.layout.max_position_embeddings if kind == LEARNED else None,
        **_rotary_of(run.config.positions),
        "--untie-embeddings-and-output-weights": model.untie_embeddings_and_output_weights,
        "ids of the tokenizer": run.tokenizer.vocab_size,
    }


def _variants_of(run: Run) -> dict[str, Any]:
    """What checkpoints of earlier versions do not name, and all have as by default: None."""
    model = run.config.model
    return {
        "--openai-gelu": model.openai_gelu or None,
        "--squared-relu": model.squared_relu or None,
        "--quick-geglu": model.quick_geglu or None,
        "--glu-linear-offset": model.glu_linear_offset or None,
        "--activation-func-clamp-value": model.activation_func_clamp_value,
        "--apply-layernorm-1p": model.apply_layernorm_1p or None,
        "--qk-l2-norm": model.qk_l2_norm or None,
        "--attention-output-gate": model.attention_output_gate or None,
        "--softmax-scale": model.softmax_scale,
    }


def _rotary_of(positions: PositionOptions) -> dict[str, Any]:
    """How rotary positions turn; None throughout where there are none."""
    factor = positions.rope_scaling_factor if positions.use_rope_scaling else None
    values = {
        "--rotary-base": positions.rotary_base,
        "--rotary-percent": positions.rotary_percent,
        "--rotary-interleaved": positions.rotary_interleaved or None,
        "--rotary-seq-len-interpolation-factor": positions.rotary_seq_len_interpolation_factor,
        "--rope-scaling-factor": factor,
        "--no-rope-freq": positions.no_rope_freq,
    }
    return values if positions.position_embedding_type == "rope" else dict.fromkeys(values)


def _experts_of(run: Run) -> dict[str, Any]:
    experts, options = run.dimensions.experts, run.config.experts
    if experts is None:
        return {"--num-experts": None}
    return {
        "--num-experts": experts.num_experts,
        "--moe-ffn-hidden-size": experts.ffn_hidden_size,
        "--moe-shared-expert-intermediate-size": experts.shared_ffn_hidden_size,
        # None as older checkpoints have it, which do not name them.
        "--moe-shared-expert-gate": options.moe_shared_expert_gate or None,
        "--moe-apply-probs-on-input": options.moe_apply_probs_on_input or None,
        "--moe-router-score-function": options.moe_router_score_function,
        "--moe-router-enable-expert-bias": options.moe_router_enable_expert_bias,
    }


def layout_of(config: Config, world_size: int) -> dict[str, int]:
    """What random states depend on."""
    parallel = config.parallel
    return {
        "tensor": parallel.tensor_model_parallel_size,
        "pipeline": parallel.pipeline_model_parallel_size,
        "world": world_size,
    }


def optimizer_of(config: Config) -> dict[str, Any]:
    """What decides the form of the optimizer's state, by flag; no layout does."""
    optimizer = config.optimizer
    return {
        DISTRIBUTED: config.parallel.use_distributed_optimizer,
        "--bf16": config.training.bf16,
        "--fp16": config.training.fp16,
        # None as older checkpoints have it, which do not name them.
        "--optimizer sgd": optimizer.optimizer == "sgd" or None,
        "--sgd-momentum above 0": (optimizer.optimizer == "sgd" and optimizer.sgd_momentum > 0) or None,
        "--decoupled-lr": optimizer.decoupled_lr is not None or None,
        # Experts on processes of their own have an optimizer of their own.
        _EXPERTS_APART: config.experts.expert_model_parallel_size > 1 or None,
    }


def check_model(manifest: Manifest, run: Run, folder: Path) -> None:
    """Refuse a checkpoint of another model, or whose optimizer state cannot be taken over.

    With --finetune rotary periods may be other ones, which is said.

    Raises:
        CheckpointError: with everything that differs.
    """
    here = model_of(run)
    if run.config.checkpoint.finetune:
        stretched = _differences(manifest.model, {flag: here.pop(flag) for flag in _STRETCHING})
        if stretched:
            say(f"fine-tuning with other rotary periods than the checkpoint's: {stretched}")
    differences = _differences(manifest.model, here)
    if differences:
        raise CheckpointError(
            f"checkpoint {folder} is of another model: {differences}"
            f"{_first_other_shape(manifest.model, model_of(run))}; give the flags it was trained with, or "
            "another --load"
        )
    options = run.config.checkpoint
    if options.finetune or options.no_load_optim or not manifest.has_optimizer:
        return
    form = {flag: value for flag, value in optimizer_of(run.config).items() if flag not in CONVERTED}
    differences = _differences(manifest.optimizer, form)
    if differences:
        raise CheckpointError(
            f"the optimizer state of checkpoint {folder} has another form: {differences}; give the flags "
            "it was trained with, or --no-load-optim"
        )


def _first_other_shape(there: dict[str, Any], here: dict[str, Any]) -> str:
    """The first weight whose shape differs, as a message says it; nothing where none does."""
    try:
        shapes = zip(_shapes(there).items(), _shapes(here).values(), strict=True)
    except (KeyError, TypeError):  # written by a version that named other hyperparameters
        return ""
    for (name, before), now in shapes:
        if before != now:
            return f" (the first weight that differs, {name}, is {before} there and {now} here)"
    return ""


def _shapes(model: dict[str, Any]) -> dict[str, list[int]]:
    """Shapes of a dense model's weights, vocabulary without padding, in the order of its forward."""
    hidden, width = model["--hidden-size"], model["--kv-channels"]
    heads, groups = model["--num-attention-heads"], model["--num-query-groups"]
    gate = model.get("--attention-output-gate")
    is_gated = model["--swiglu"] or model.get("--quick-geglu")
    return {
        "word_embeddings.weight": [model["ids of the tokenizer"], hidden],
        "linear_qkv.weight": [(heads * (2 if gate else 1) + 2 * groups) * width, hidden],
        "linear_proj.weight": [hidden, heads * width],
        "linear_fc1.weight": [model["--ffn-hidden-size"] * (2 if is_gated else 1), hidden],
    }


def _differences(there: dict[str, Any], here: dict[str, Any]) -> str:
    return "; ".join(
        f"{flag} is {_text(there.get(flag))} there and {_text(value)} here"
        for flag, value in here.items()
        if there.get(flag) != value
    )


def _text(value: object) -> str:
    return "unset" if value is None else str(value)
