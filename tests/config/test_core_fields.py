"""Every field of Megatron-Core's configuration is reached by a flag, derived, or left with a reason."""

from __future__ import annotations

import dataclasses
from collections import Counter

import torch
from megatron.core.transformer import TransformerConfig

from megatron.seq1f1b.config import parse_arguments
from megatron.seq1f1b.config.core_fields import Reach, core_field, listed_fields, option_names
from megatron.seq1f1b.model.activations import quick_gelu
from megatron.seq1f1b.training.build import transformer_config
from megatron.seq1f1b.training.prepare import prepare
from megatron.seq1f1b.upstream.fields import configuration_fields
from tests.config.flags import words

FIELDS = set(configuration_fields())


def test_every_field_is_accounted_for() -> None:
    assert not [name for name in sorted(FIELDS) if core_field(name) is None]


def test_what_is_listed_is_a_field_and_stands_once() -> None:
    listed = listed_fields()
    assert not set(listed) - FIELDS
    assert not [name for name, times in Counter(listed).items() if times > 1]


def test_what_has_an_option_of_its_name_is_not_listed_again() -> None:
    assert not set(listed_fields()) & option_names()


def test_what_is_not_served_is_as_megatron_core_has_it() -> None:
    run = prepare(parse_arguments(words("--num-experts 4 --disable-bias-linear --bf16")), world_size=2)
    built = transformer_config(run, torch.bfloat16)
    plain = TransformerConfig(num_layers=8, num_attention_heads=4, hidden_size=32, cuda_graph_scope=[])
    changed = [
        field.name
        for field in dataclasses.fields(TransformerConfig)
        if getattr(built, field.name) != getattr(plain, field.name)
        and getattr(core_field(field.name), "reach", None) is Reach.UNSERVED
    ]
    assert not changed


def test_flags_of_the_model_reach_it() -> None:
    asked = {
        "softmax_scale": ("--softmax-scale 0.5", 0.5),
        "layernorm_zero_centered_gamma": ("--apply-layernorm-1p", True),
        "qk_l2_norm": ("--qk-l2-norm", True),
        "attention_output_gate": ("--attention-output-gate", True),
        "gated_linear_unit": ("--quick-geglu", True),
        "activation_func": ("", quick_gelu),
        "glu_linear_offset": ("--glu-linear-offset 1", 1.0),
        "activation_func_clamp_value": ("--activation-func-clamp-value 7", 7.0),
        "embedding_init_method_std": ("--embedding-init-method-std 0.5", 0.5),
        "rotary_interleaved": ("--position-embedding-type rope --rotary-interleaved", True),
        "no_rope_freq": ("--no-rope-freq 4", [0, 0, 0, 1] * 2),
        "disable_bf16_reduced_precision_matmul": ("--disable-bf16-reduced-precision-matmul", True),
    }
    run = prepare(parse_arguments(words(" ".join(flag for flag, _ in asked.values()))), world_size=2)
    built = transformer_config(run, torch.float32)
    assert {name: getattr(built, name) for name in asked} == {
        name: value for name, (_, value) in asked.items()
    }
