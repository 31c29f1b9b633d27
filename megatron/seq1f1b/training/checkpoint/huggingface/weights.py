"""Renames and reorders weights between Megatron-Core's layout and Hugging Face's, bit for bit.

Ours stack the layers; the rows of `linear_qkv` go by query group: the group's queries, its key, its
value. GPT-2 keeps weights as [inputs, outputs], and queries, keys and values one after another.
Padding of the vocabulary is left out on the way there and added, as zeros, on the way back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from megatron.seq1f1b.errors import CheckpointError
from megatron.seq1f1b.training.checkpoint.huggingface.families import GPT2, family_of

Tensors = dict[str, torch.Tensor]
_LAYERS = "decoder.layers."
_QKV, _PROJ = f"{_LAYERS}self_attention.linear_qkv.", f"{_LAYERS}self_attention.linear_proj."
_FC1, _FC2 = f"{_LAYERS}mlp.linear_fc1.", f"{_LAYERS}mlp.linear_fc2."
_NORM = "layer_norm_"
"""Megatron-Core names a layer's norms after the linear layers that follow them."""

_GPT2_LAYER = {
    f"{_QKV}{_NORM}weight": "ln_1.weight",
    f"{_QKV}{_NORM}bias": "ln_1.bias",
    f"{_QKV}weight": "attn.c_attn.weight",
    f"{_QKV}bias": "attn.c_attn.bias",
    f"{_PROJ}weight": "attn.c_proj.weight",
    f"{_PROJ}bias": "attn.c_proj.bias",
    f"{_FC1}{_NORM}weight": "ln_2.weight",
    f"{_FC1}{_NORM}bias": "ln_2.bias",
    f"{_FC1}weight": "mlp.c_fc.weight",
    f"{_FC1}bias": "mlp.c_fc.bias",
    f"{_FC2}weight": "mlp.c_proj.weight",
    f"{_FC2}bias": "mlp.c_proj.bias",
}
_GPT2_WHOLE = {
    "embedding.word_embeddings.weight": "transformer.wte.weight",
    "embedding.position_embeddings.weight": "transformer.wpe.weight",
    "decoder.final_layernorm.weight": "transformer.ln_f.weight",
    "decoder.final_layernorm.bias": "transformer.ln_f.bias",
    "output_layer.weight": "lm_head.weight",
}
_LLAMA_LAYER = {
    f"{_QKV}{_NORM}weight": "input_layernorm.weight",
    f"{_QKV}weight": "self_attn.{q,k,v}_proj.weight",
    f"{_PROJ}weight": "self_attn.o_proj.weight",
    f"{_FC1}{_NORM}weight": "post_attention_layernorm.weight",
    f"{_FC1}weight": "mlp.{gate,up}_proj.weight",
    f"{_FC2}weight": "mlp.down_proj.weight",
}
_LLAMA_WHOLE = {
    "embedding.word_embeddings.weight": "model.embed_tokens.weight",
    "decoder.final_layernorm.weight": "model.norm.weight",
    "output_layer.weight": "lm_head.weight",
}
_VOCABULARY = ("embedding.word_embeddings.weight", "output_layer.weight")


@dataclass(frozen=True, kw_only=True)
class Translation:
    """The weights of one model in both layouts."""

    model: Mapping[str, Any]
    """Its hyperparameters, by flag."""
    padded_vocab_size: int

    @property
    def is_gpt2(self) -> bool:
        """Of the two families."""
        return family_of(self.model) == GPT2

    def to_hugging_face(self, ours: Tensors) -> Tensors:
        """Hugging Face's tensors of ours."""
        theirs: Tensors = {}
        for name, other in self._whole().items():
            theirs[other] = _take(ours, name)
            if name in _VOCABULARY:
                theirs[other] = theirs[other][: self.model["ids of the tokenizer"]].clone()
        for name, pattern in self._layer().items():
            for index, weight in enumerate(_take(ours, name)):
                parts = self._split(name, weight)
                for other, part in zip(_expand(f"{self._prefix(index)}{pattern}"), parts, strict=True):
                    theirs[other] = part.contiguous()
        _refuse_rest(ours)
        return theirs

    def from_hugging_face(self, theirs: Tensors) -> Tensors:
        """Our tensors of Hugging Face's, whose names may lack the model's prefix."""
        if self.is_gpt2:
            # Buffers of older releases, and files of the model without its head.
            theirs = {name: value for name, value in theirs.items() if not name.endswith(_GPT2_BUFFERS)}
            if "wte.weight" in theirs:
                theirs = {f"transformer.{name}": value for name, value in theirs.items()}
        if "output_layer.weight" not in self._whole():
            theirs.pop("lm_head.weight", None)  # the embedding once more
        ours: Tensors = {}
        for name, other in self._whole().items():
            ours[name] = _take(theirs, other)
            if name in _VOCABULARY:
                ours[name] = self._padded(ours[name])
        for name, pattern in self._layer().items():
            layers = []
            for index in range(self.model["--num-layers"]):
                parts = [_take(theirs, other) for other in _expand(f"{self._prefix(index)}{pattern}")]
                layers.append(self._join(name, parts))
            ours[name] = torch.stack(layers)
        _refuse_rest(theirs)
        return ours

    def _layer(self) -> dict[str, str]:
        return _GPT2_LAYER if self.is_gpt2 else _LLAMA_LAYER

    def _whole(self) -> dict[str, str]:
        names = dict(_GPT2_WHOLE if self.is_gpt2 else _LLAMA_WHOLE)
        if not self.model["--untie-embeddings-and-output-weights"]:
            del names["output_layer.weight"]
        return names

    def _prefix(self, index: int) -> str:
        return f"transformer.h.{index}." if self.is_gpt2 else f"model.layers.{index}."

    def _split(self, name: str, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """One of our tensors of a layer as Hugging Face has it."""
        if name.startswith(_QKV) and _NORM not in name:
            grouped = weight.view(*self._qkv_groups(), *weight.shape[1:])
            queries, keys, values = grouped[:, :-2], grouped[:, -2:-1], grouped[:, -1:]
            parts = tuple(part.reshape(-1, *weight.shape[1:]) for part in (queries, keys, values))
            return (_turned(torch.cat(parts)),) if self.is_gpt2 else parts
        if self.is_gpt2:
            return (_turned(weight),)
        return weight.chunk(2) if name == f"{_FC1}weight" else (weight,)

    def _join(self, name: str, parts: list[torch.Tensor]) -> torch.Tensor:
        """The inverse of `_split`."""
        if name.startswith(_QKV) and _NORM not in name:
            groups, rows, channels = self._qkv_groups()
            queries, keys, values = _turned(parts[0]).chunk(3) if self.is_gpt2 else parts
            shapes = ((queries, rows - 2), (keys, 1), (values, 1))
            grouped = [part.reshape(groups, count, channels, *part.shape[1:]) for part, count in shapes]
            return torch.cat(grouped, dim=1).flatten(0, 2)
        return _turned(parts[0]).contiguous() if self.is_gpt2 else torch.cat(parts)

    def _qkv_groups(self) -> tuple[int, int, int]:
        """(query groups, heads of each: its queries, a key and a value, width of a head)."""
        groups = self.model["--num-query-groups"]
        return groups, self.model["--num-attention-heads"] // groups + 2, self.model["--kv-channels"]

    def _padded(self, weight: torch.Tensor) -> torch.Tensor:
        padding = weight.new_zeros(self.padded_vocab_size - weight.shape[0], weight.shape[1])
        return torch.cat([weight, padding])


_GPT2_BUFFERS = (".attn.bias", ".attn.masked_bias")


def _turned(weight: torch.Tensor) -> torch.Tensor:
    """[outputs, inputs] as [inputs, outputs] and back; biases as they are."""
    return weight.t() if weight.dim() == 2 else weight


def _expand(pattern: str) -> list[str]:
    """`a.{q,k}_proj` as `a.q_proj` and `a.k_proj`."""
    before, opening, rest = pattern.partition("{")
    if not opening:
        return [pattern]
    choices, _, after = rest.partition("}")
    return [f"{before}{choice}{after}" for choice in choices.split(",")]


def _take(tensors: Tensors, name: str) -> torch.Tensor:
    if name not in tensors:
        raise CheckpointError(f"{name} is missing; there are {', '.join(sorted(tensors)[:3])} and others")
    return tensors.pop(name)


def _refuse_rest(tensors: Tensors) -> None:
    if tensors:
        raise CheckpointError(f"tensors that the model does not have: {', '.join(sorted(tensors)[:5])}")
