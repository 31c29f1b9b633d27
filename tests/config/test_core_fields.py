"""Every field of Megatron-Core's configuration is reached by a flag, derived, or left with a reason."""

from __future__ import annotations

import dataclasses
from collections import Counter

from megatron.core.distributed import DistributedDataParallelConfig
from megatron.core.optimizer import OptimizerConfig
from megatron.core.transformer import TransformerConfig

from megatron.seq1f1b.config.core_fields import core_field, listed_fields, option_names

FIELDS = {
    field.name
    for config in (TransformerConfig, DistributedDataParallelConfig, OptimizerConfig)
    for field in dataclasses.fields(config)
}


def test_every_field_is_accounted_for() -> None:
    assert not [name for name in sorted(FIELDS) if core_field(name) is None]


def test_what_is_listed_is_a_field_and_stands_once() -> None:
    listed = listed_fields()
    assert not set(listed) - FIELDS
    assert not [name for name, times in Counter(listed).items() if times > 1]


def test_what_has_an_option_of_its_name_is_not_listed_again() -> None:
    assert not set(listed_fields()) & option_names()
