"""Models by name: a tiny one, the sizes that Seq1F1B's paper reports, and two families people train."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from megatron.seq1f1b.config.query_groups import are_shared_evenly
from megatron.seq1f1b.errors import ConfigurationError
from megatron.seq1f1b.model.flops import ModelDimensions
from megatron.seq1f1b.model.memory import ModelMemory


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedModel:
    """The widths of a model; GPT-like unless `is_llama`, with rotary positions and an untied head."""

    num_layers: int
    hidden_size: int
    num_heads: int
    num_query_groups: int | None = None
    ffn_hidden_size: int | None = None
    vocab_size: int = 50257
    learning_rate: float
    """The highest, as models of this size are trained with."""
    is_llama: bool = False
    """SwiGLU, RMSNorm and no biases."""

    def dimensions(self, *, tensor_parallel: int = 1) -> ModelDimensions:
        """With the vocabulary padded for tensor parallelism."""
        multiple = 128 * tensor_parallel
        return ModelDimensions(
            num_layers=self.num_layers,
            hidden_size=self.hidden_size,
            ffn_hidden_size=self.ffn_hidden_size or 4 * self.hidden_size,
            num_query_heads=self.num_heads,
            num_query_groups=self.num_query_groups or self.num_heads,
            head_dim=self.hidden_size // self.num_heads,
            is_gated=self.is_llama,
            padded_vocab_size=-(-self.vocab_size // multiple) * multiple,
        )

    def memory(self, *, tensor_parallel: int = 1, optimizer_shards: int = 1) -> ModelMemory:
        """In bfloat16, sequence-parallel where tensor-parallel."""
        dimensions = self.dimensions(tensor_parallel=tensor_parallel)
        return ModelMemory(
            dimensions=dimensions,
            tensor_parallel=tensor_parallel,
            is_sequence_parallel=tensor_parallel > 1,
            optimizer_shards=optimizer_shards,
            rotary_dim=dimensions.head_dim,
            has_linear_bias=not self.is_llama,
            has_qkv_bias=not self.is_llama,
            has_norm_bias=not self.is_llama,
        )

    def can_share(self, tensor_parallel: int) -> bool:
        """Whether so many processes can share each layer."""
        sizes = self.dimensions()
        return are_shared_evenly(
            heads=sizes.num_query_heads,
            groups=sizes.num_query_groups,
            head_dim=sizes.head_dim,
            tensor_parallel=tensor_parallel,
        )

    def flags(self) -> list[str]:
        """As pretrain_gpt.py takes them."""
        flags = ["--num-layers", str(self.num_layers), "--hidden-size", str(self.hidden_size)]
        flags += ["--num-attention-heads", str(self.num_heads), "--position-embedding-type", "rope"]
        flags += ["--untie-embeddings-and-output-weights", "--bf16"]
        if self.ffn_hidden_size is not None:
            flags += ["--ffn-hidden-size", str(self.ffn_hidden_size)]
        if self.num_query_groups is not None:
            flags += ["--group-query-attention", "--num-query-groups", str(self.num_query_groups)]
        if self.is_llama:
            flags += ["--swiglu", "--normalization", "RMSNorm", "--disable-bias-linear"]
        return flags

    def learning_rate_flags(self) -> list[str]:
        """The highest learning rate, and a tenth of it as the lowest."""
        return ["--lr", f"{self.learning_rate:g}", "--min-lr", f"{self.learning_rate / 10:g}"]

    def mock_vocabulary_flags(self) -> list[str]:
        """A vocabulary of this model's size without a tokenizer's files."""
        end_of_document = 1
        return ["--tokenizer-type", "NullTokenizer", "--vocab-size", str(self.vocab_size - end_of_document)]


MODELS = {
    "tiny": NamedModel(num_layers=8, hidden_size=256, num_heads=4, vocab_size=4096, learning_rate=2e-3),
    "1.3b": NamedModel(num_layers=24, hidden_size=2048, num_heads=16, learning_rate=2e-4),
    "2.7b": NamedModel(num_layers=32, hidden_size=2560, num_heads=32, learning_rate=1.6e-4),
    "7b": NamedModel(num_layers=32, hidden_size=4096, num_heads=32, learning_rate=1.2e-4),
    "13b": NamedModel(num_layers=40, hidden_size=5120, num_heads=40, learning_rate=1e-4),
    "30b": NamedModel(num_layers=64, hidden_size=6144, num_heads=64, learning_rate=1e-4),
    "llama2-7b": NamedModel(
        num_layers=32,
        hidden_size=4096,
        num_heads=32,
        ffn_hidden_size=11008,
        vocab_size=32000,
        learning_rate=3e-4,
        is_llama=True,
    ),
    "llama3-8b": NamedModel(
        num_layers=32,
        hidden_size=4096,
        num_heads=32,
        num_query_groups=8,
        ffn_hidden_size=14336,
        vocab_size=128256,
        learning_rate=3e-4,
        is_llama=True,
    ),
    "llama3-70b": NamedModel(
        num_layers=80,
        hidden_size=8192,
        num_heads=64,
        num_query_groups=8,
        ffn_hidden_size=28672,
        vocab_size=128256,
        learning_rate=1.5e-4,
        is_llama=True,
    ),
}


def named_model(name: str) -> NamedModel:
    """The model of that name.

    Raises:
        ConfigurationError: there is none.
    """
    if name.lower() not in MODELS:
        close = difflib.get_close_matches(name.lower(), MODELS, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigurationError(f"there is no model {name!r}{hint} (there are {', '.join(MODELS)})")
    return MODELS[name.lower()]
