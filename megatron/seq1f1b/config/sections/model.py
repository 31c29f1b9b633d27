"""The shape of the GPT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Model: the shape of the GPT."""

    num_layers: int
    """Transformer layers."""
    hidden_size: int
    """Width of the hidden states."""
    ffn_hidden_size: int | None = None
    """Width of the MLP; 4 x hidden, with --swiglu 8/3 x hidden in multiples of 64."""
    num_attention_heads: int
    """Query heads."""
    group_query_attention: bool = False
    """Share keys and values between groups of query heads."""
    num_query_groups: int | None = None
    """Heads of keys and values; needs --group-query-attention."""
    kv_channels: int | None = None
    """Width of one head; hidden size / heads."""
    swiglu: bool = False
    """Gated linear unit with SiLU in the MLP, instead of GELU."""
    openai_gelu: bool = False
    """GELU by its tanh approximation in the MLP, as in GPT-2."""
    squared_relu: bool = False
    """Squared ReLU in the MLP, instead of GELU."""
    quick_geglu: bool = False
    """Gated linear unit with GELU by a sigmoid in the MLP."""
    glu_linear_offset: float = 0.0
    """Of a gated linear unit: added to the half that is not the gate."""
    activation_func_clamp_value: float | None = None
    """Of a gated linear unit: gates are at most this, the other half within plus and minus; none."""
    normalization: Literal["LayerNorm", "RMSNorm"] = "LayerNorm"
    """Which norm."""
    norm_epsilon: float = 1e-5
    """Epsilon of the norms."""
    apply_layernorm_1p: bool = False
    """Norms scale by 1 + weight."""
    qk_layernorm: bool = False
    """Normalise queries and keys."""
    qk_l2_norm: bool = False
    """Normalise queries and keys to mean square 1, without weights."""
    attention_output_gate: bool = False
    """Multiply what each head attends to by a sigmoid gate of the layer's input."""
    softmax_scale: float | None = None
    """Factor of the attention scores; 1 / square root of the width of a head."""
    disable_bias_linear: bool = False
    """No bias in linear layers."""
    add_qkv_bias: bool = False
    """Bias in the query, key and value projection even with --disable-bias-linear."""
    window_size: str | None = None
    """Attention window L,R: L keys before a query, R after (0); all before it."""
    window_attn_skip_freq: int | None = None
    """Every so many layers attend without the window; none."""
    untie_embeddings_and_output_weights: bool = False
    """Give the output layer weights of its own."""
    make_vocab_size_divisible_by: int = 128
    """Pad the vocabulary to a multiple of this times the tensor parallelism."""
    init_method_std: float = 0.02
    """Standard deviation of the initial weights."""
    embedding_init_method_std: float | None = None
    """The same of the embeddings; --init-method-std."""
    init_method_xavier_uniform: bool = False
    """Draw initial weights uniformly, as wide as Xavier's rule says for each matrix."""
    hidden_dropout: float = 0.0
    """Dropout on hidden states."""
    attention_dropout: float = 0.0
    """Dropout on attention weights."""
    attention_backend: str = "auto"
    """Kernels of attention: cpu, torch-flash, reference; auto takes the fast one that can serve the run."""
