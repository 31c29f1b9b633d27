"""A flag that is a field of Megatron-Core's configuration has that field's default, but where we say so."""

from __future__ import annotations

import dataclasses
from typing import get_type_hints

from megatron.seq1f1b.config.options import Config
from megatron.seq1f1b.upstream import install_cpu_support

install_cpu_support()

from megatron.core.distributed import DistributedDataParallelConfig  # noqa: E402
from megatron.core.optimizer import OptimizerConfig  # noqa: E402
from megatron.core.transformer.transformer_config import TransformerConfig  # noqa: E402

OTHERWISE = {
    "num_layers": "must be given",
    "hidden_size": "must be given",
    "num_attention_heads": "must be given",
    "lr": "must be given",
    "hidden_dropout": "0, as the manual's table of other defaults says",
    "attention_dropout": "0, as the manual's table of other defaults says",
    "attention_backend": "our kernels, by name",
    "recompute_modules": "an empty list",
    "min_lr": "0, as Megatron-LM's flag",
}


def test_defaults_are_megatron_cores() -> None:
    theirs = {
        field.name: field.default
        for config in (DistributedDataParallelConfig, OptimizerConfig, TransformerConfig)
        for field in dataclasses.fields(config)
    }
    ours = {
        field.name: field.default
        for section in get_type_hints(Config).values()
        for field in dataclasses.fields(section)
    }
    shared = ours.keys() & theirs.keys()
    assert len(shared) > 50
    assert {name for name in shared if ours[name] != theirs[name]} == OTHERWISE.keys()
