"""What Megatron-Core can be configured with."""

from __future__ import annotations

import dataclasses
import inspect

from megatron.core.distributed import DistributedDataParallelConfig
from megatron.core.models.gpt import GPTModel
from megatron.core.optimizer import OptimizerConfig
from megatron.core.transformer import TransformerConfig


def configuration_fields() -> list[str]:
    """Every field of its configuration dataclasses, and every argument of its GPT, sorted."""
    configs = (TransformerConfig, DistributedDataParallelConfig, OptimizerConfig)
    names = {field.name for config in configs for field in dataclasses.fields(config)}
    return sorted(names | (inspect.signature(GPTModel.__init__).parameters.keys() - {"self"}))
