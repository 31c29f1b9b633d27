"""Initial weights that depend on the seed and the parameter's global name alone.

Megatron-Core draws weights from one generator in the order of construction, so they change with
the pipeline layout. Here every matrix has a generator of its own, seeded by (seed, name in the
whole model), draws the whole matrix in float32 and keeps this rank's shard: any layout of tensor,
pipeline, virtual and data parallelism, and any dtype, starts from the same model.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator
from functools import partial

import torch
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer.transformer_config import TransformerConfig

_Fill = Callable[..., torch.Tensor]
"""Fills a tensor in place, with `generator=`, and returns it."""
_SCALED_BY_DEPTH = ("linear_proj.weight", "linear_fc2.weight")
_VOCABULARY = ("word_embeddings.weight", "output_layer.weight")
_EMBEDDINGS = ("word_embeddings.weight", "position_embeddings.weight")


@torch.no_grad()
def initialize_weights(model: GPTModel, *, seed: int, vocab_size: int, is_xavier: bool = False) -> None:
    """Fill every parameter of a model part in place.

    Args:
        model: a part as Megatron-Core built it, its parameters' values not yet set.
        seed: of the whole run.
        vocab_size: ids in use; rows beyond them, padding, are set to zero.
        is_xavier: uniform weights after Xavier's rule instead of normal ones.
    """
    for name, parameter in global_parameters(model):
        if parameter.dim() > 1:
            shape = _whole_shape(parameter, model.config)
            used = [vocab_size, *shape[1:]] if name.endswith(_VOCABULARY) else shape
            spread = _xavier(used) if is_xavier else _normal(name, model.config)
            whole = _draw(name, shape, spread, seed)
            if name.endswith(_VOCABULARY):
                whole[vocab_size:] = 0
            parameter.copy_(_shard(name, whole, parameter, model.config))
        elif "norm" in name and name.endswith("weight"):
            parameter.fill_(0 if model.config.layernorm_zero_centered_gamma else 1)
        else:
            parameter.zero_()


def global_parameters(model: GPTModel) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """A part's parameters under the names they have in the whole model, layers counted from 0."""
    for name, parameter in model.named_parameters():
        match = re.match(r"decoder\.layers\.(\d+)\.", name)
        if match:
            layer = model.decoder.layers[int(match.group(1))].layer_number - 1
            name = f"decoder.layers.{layer}.{_with_global_expert(name[match.end() :], model.config)}"
        elif name == "output_layer.weight" and model.share_embeddings_and_output_weights:
            name = "embedding.word_embeddings.weight"
        yield name, parameter


def _with_global_expert(name: str, config: TransformerConfig) -> str:
    """The name of a layer's parameter, with its expert counted over all processes that share them."""
    if config.num_moe_experts is None or config.expert_model_parallel_size == 1:
        return name
    first = parallel_state.get_expert_model_parallel_rank() * (
        config.num_moe_experts // config.expert_model_parallel_size
    )
    return re.sub(r"local_experts\.(\d+)", lambda match: f"local_experts.{first + int(match[1])}", name)


def _whole_shape(parameter: torch.nn.Parameter, config: TransformerConfig) -> list[int]:
    """Of a matrix over all tensor-parallel ranks."""
    shape = list(parameter.shape)
    if getattr(parameter, "tensor_model_parallel", False):
        shape[_partition_dim(parameter)] *= config.tensor_model_parallel_size
    return shape


def _normal(name: str, config: TransformerConfig) -> _Fill:
    """Normal weights; those that write to the hidden states are smaller in deeper models."""
    std = config.embedding_init_method_std if name.endswith(_EMBEDDINGS) else config.init_method_std
    if name.endswith(_SCALED_BY_DEPTH):
        std /= math.sqrt(2.0 * config.num_layers)
    return partial(torch.Tensor.normal_, mean=0.0, std=std)


def _xavier(shape: list[int]) -> _Fill:
    """Uniform weights, the wider the fewer inputs and outputs (Glorot and Bengio, 2010, equation 16)."""
    bound = math.sqrt(6.0 / sum(shape))

    def fill(weight: torch.Tensor, *, generator: torch.Generator) -> torch.Tensor:
        return weight.uniform_(-bound, bound, generator=generator)

    return fill


def _draw(name: str, shape: list[int], fill: _Fill, seed: int) -> torch.Tensor:
    """The whole matrix of a parameter, float32 on the CPU."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    # Row by row, so that padding the vocabulary for another layout changes no row in use.
    if name.endswith(_VOCABULARY):
        blocks = torch.empty(shape, dtype=torch.float32).split(_ROWS_PER_DRAW)
        return torch.cat([fill(block, generator=generator) for block in blocks])
    return fill(torch.empty(shape, dtype=torch.float32), generator=generator)


_ROWS_PER_DRAW = 128
"""Vocabularies are padded to multiples of this, so every draw but the padding's is a whole one."""


def _shard(
    name: str, whole: torch.Tensor, parameter: torch.nn.Parameter, config: TransformerConfig
) -> torch.Tensor:
    """This tensor-parallel rank's part of a whole matrix."""
    size = config.tensor_model_parallel_size
    if size == 1 or not getattr(parameter, "tensor_model_parallel", False):
        return whole
    rank = parallel_state.get_tensor_model_parallel_rank()
    axis = _partition_dim(parameter)
    if config.gated_linear_unit and name.endswith("linear_fc1.weight"):
        # A rank holds its share of the gate and then its share of the values.
        halves = [half.chunk(size, axis)[rank] for half in whole.chunk(2, axis)]
        return torch.cat(halves, axis)
    return whole.chunk(size, axis)[rank]


def _partition_dim(parameter: torch.nn.Parameter) -> int:
    return int(parameter.partition_dim)  # type: ignore[attr-defined]
