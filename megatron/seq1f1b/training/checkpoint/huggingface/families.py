"""Which model a configuration is: Hugging Face's `config.json` and our flags, either way.

Only what decides weights and logits is translated; what the other side cannot express is refused
by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megatron.seq1f1b.errors import CheckpointError

Json = Mapping[str, Any]
GPT2, LLAMA = "gpt2", "llama"
_TANH_GELU = ("gelu_new", "gelu_pytorch_tanh")

_PLAIN = dict.fromkeys(
    (
        *("--squared-relu", "--quick-geglu", "--glu-linear-offset", "--activation-func-clamp-value"),
        *("--apply-layernorm-1p", "--qk-l2-norm", "--attention-output-gate", "--softmax-scale"),
    )
)
_NEEDS: dict[str, dict[str, Any]] = {
    GPT2: {
        "--swiglu": False,
        "--normalization": "LayerNorm",
        "--qk-layernorm": False,
        "--disable-bias-linear": False,
        "--num-experts": None,
        **_PLAIN,
    },
    LLAMA: {
        "--position-embedding-type": "rope",
        "--swiglu": True,
        "--normalization": "RMSNorm",
        "--qk-layernorm": False,
        "--disable-bias-linear": True,
        "--add-qkv-bias": False,
        "--rotary-percent": 1.0,
        "--num-experts": None,
        "--openai-gelu": None,
        "--rotary-interleaved": None,
        "--no-rope-freq": None,
        **_PLAIN,
    },
}
"""Our flags that a family fixes."""


def family_of(model: Json) -> str:
    """The family of a checkpoint's hyperparameters, by flag.

    Raises:
        CheckpointError: no family has them; says which differ.
    """
    family = GPT2 if model["--position-embedding-type"] == "learned_absolute" else LLAMA
    differences = [
        f"{flag} is {model.get(flag)}, {family} has {needed}"
        for flag, needed in _NEEDS[family].items()
        if model.get(flag) != needed
    ]
    if family == GPT2 and model["--num-query-groups"] != model["--num-attention-heads"]:
        differences.append(f"--num-query-groups is {model['--num-query-groups']}, {family} has one per head")
    if family == GPT2 and model["--kv-channels"] * model["--num-attention-heads"] != model["--hidden-size"]:
        differences.append(f"--kv-channels is {model['--kv-channels']}, {family} has hidden size / heads")
    if differences:
        raise CheckpointError(f"no model of Hugging Face's GPT-2 or Llama family: {'; '.join(differences)}")
    return family


def config_of(model: Json, options: Json) -> dict[str, Any]:
    """`config.json` of a checkpoint.

    Args:
        model: the hyperparameters of its manifest, by flag.
        options: the model section of its configuration.
    """
    family = family_of(model)
    if options.get("window_size") is not None:
        raise CheckpointError(f"--window-size {options['window_size']} has no counterpart in {family}")
    common = {
        "vocab_size": model["ids of the tokenizer"],
        "tie_word_embeddings": not model["--untie-embeddings-and-output-weights"],
        "initializer_range": options["init_method_std"],
    }
    if family == GPT2:
        return {
            "model_type": GPT2,
            "architectures": ["GPT2LMHeadModel"],
            "n_layer": model["--num-layers"],
            "n_embd": model["--hidden-size"],
            "n_head": model["--num-attention-heads"],
            "n_inner": model["--ffn-hidden-size"],
            "n_positions": model["--max-position-embeddings"],
            "layer_norm_epsilon": options["norm_epsilon"],
            "activation_function": _TANH_GELU[0] if options.get("openai_gelu") else "gelu",
            "attn_pdrop": options["attention_dropout"],
            "embd_pdrop": options["hidden_dropout"],
            "resid_pdrop": options["hidden_dropout"],
            **common,
        }
    return {
        "model_type": LLAMA,
        "architectures": ["LlamaForCausalLM"],
        "num_hidden_layers": model["--num-layers"],
        "hidden_size": model["--hidden-size"],
        "intermediate_size": model["--ffn-hidden-size"],
        "num_attention_heads": model["--num-attention-heads"],
        "num_key_value_heads": model["--num-query-groups"],
        "head_dim": model["--kv-channels"],
        "rms_norm_eps": options["norm_epsilon"],
        "rope_theta": float(model["--rotary-base"]),
        "rope_scaling": _scaling_of(model),
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        **common,
    }


def flags_of(config: Json) -> list[str]:
    """Our flags for the model of a `config.json`, its sequence length and tokenizer size included.

    Raises:
        CheckpointError: another family, or something in it that has no counterpart here.
    """
    family = config.get("model_type")
    if family not in (GPT2, LLAMA):
        raise CheckpointError(f"model_type {family} is not converted; {GPT2} and {LLAMA} are")
    flags = _gpt2_flags(config) if family == GPT2 else _llama_flags(config)
    if not config.get("tie_word_embeddings", family == GPT2):
        flags["untie-embeddings-and-output-weights"] = True
    words = []
    for name, value in flags.items():
        if value is not False:
            words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return [*words, "--tokenizer-type", "NullTokenizer", "--vocab-size", str(config["vocab_size"] - 1)]


def _gpt2_flags(config: Json) -> dict[str, Any]:
    _refuse(config, scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False)
    activation = config.get("activation_function", _TANH_GELU[0])
    if activation not in ("gelu", *_TANH_GELU):
        raise CheckpointError(f"activation_function {activation} has no counterpart; gelu and gelu_new have")
    return {
        "num-layers": config["n_layer"],
        "hidden-size": config["n_embd"],
        "num-attention-heads": config["n_head"],
        "ffn-hidden-size": config.get("n_inner") or 4 * config["n_embd"],
        "seq-length": config["n_positions"],
        "max-position-embeddings": config["n_positions"],
        "norm-epsilon": config.get("layer_norm_epsilon", 1e-5),
        "openai-gelu": activation in _TANH_GELU,
    }


def _llama_flags(config: Json) -> dict[str, Any]:
    _refuse(config, hidden_act="silu", attention_bias=False, mlp_bias=False)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = config.get("rope_theta", rope.get("rope_theta", 10000))
    if theta != int(theta):
        raise CheckpointError(f"rope_theta {theta} is no whole number, as --rotary-base must be")
    heads = config["num_attention_heads"]
    return {
        "num-layers": config["num_hidden_layers"],
        "hidden-size": config["hidden_size"],
        "num-attention-heads": heads,
        "group-query-attention": True,
        "num-query-groups": config.get("num_key_value_heads") or heads,
        "kv-channels": config.get("head_dim") or config["hidden_size"] // heads,
        "ffn-hidden-size": config["intermediate_size"],
        "seq-length": config.get("max_position_embeddings", 2048),
        "norm-epsilon": config.get("rms_norm_eps", 1e-6),
        "position-embedding-type": "rope",
        "rotary-base": int(theta),
        **_scaling_flags(rope),
        "normalization": "RMSNorm",
        "swiglu": True,
        "disable-bias-linear": True,
    }


def _scaling_of(model: Json) -> dict[str, Any] | None:
    """`rope_scaling` of a Llama: longer periods, as Llama 3.1's or all alike."""
    factor, all_alike = model.get("--rope-scaling-factor"), model.get("--rotary-seq-len-interpolation-factor")
    if factor is not None and all_alike is not None:
        raise CheckpointError(
            f"--rope-scaling-factor {factor:g} and --rotary-seq-len-interpolation-factor {all_alike:g} "
            "together have no counterpart in llama"
        )
    if factor is not None:
        return {"rope_type": "llama3", "factor": factor, **_LLAMA_31}
    return None if all_alike is None else {"rope_type": "linear", "factor": all_alike}


def _scaling_flags(rope: Json) -> dict[str, Any]:
    """Our flags for `rope_scaling`, or what of `rope_parameters` says the same.

    Raises:
        CheckpointError: a rule that has no counterpart here, or other constants than Llama 3.1's.
    """
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return {}
    if kind not in ("linear", "llama3"):
        raise CheckpointError(f"rope_type {kind} has no counterpart here; default, linear and llama3 have")
    if "factor" not in rope:
        raise CheckpointError(f"rope_type {kind} has no factor in config.json; give it one")
    if kind == "linear":
        return {"rotary-seq-len-interpolation-factor": rope["factor"]}
    for name, value in _LLAMA_31.items():
        if rope.get(name, value) != value:
            raise CheckpointError(
                f"{name} {rope[name]} of rope_type llama3 has no counterpart here; {value} has"
            )
    return {"use-rope-scaling": True, "rope-scaling-factor": rope["factor"]}


_LLAMA_31 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""The constants of Llama 3.1's rule, which Megatron-Core has no fields for."""


def _refuse(config: Json, **served: object) -> None:
    """What a configuration has beyond what is served here; a missing value is the served one."""
    for name, value in served.items():
        if config.get(name, value) != value:
            raise CheckpointError(f"{name} {config[name]} has no counterpart here; {value} has")
