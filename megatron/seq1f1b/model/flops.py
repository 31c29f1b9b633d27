"""Floating-point operations of a GPT: the one cost model of partition, MFU, simulator and planner.

A multiply-add counts as two. A query meets only the keys it may see, so a causal sequence of S
tokens has S^2 / 2 pairs of query and key, and fewer under a sliding window. Where sequences hold
several documents, which only the data tell, they count as one. Pure arithmetic, no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from megatron.seq1f1b.partition import Window, pairs_of_first

BACKWARD_OF_LINEAR = 2.0
"""A linear layer's backward computes two products for each one of its forward."""
BACKWARD_OF_ATTENTION = 2.5
"""Flash attention's backward has five products for the forward's two: it recomputes the scores."""


@dataclass(frozen=True, kw_only=True)
class Experts:
    """A layer's mixture of experts in the place of its MLP."""

    num_experts: int
    topk: int
    """Experts that a token goes through."""
    ffn_hidden_size: int
    """Of one expert."""
    shared_ffn_hidden_size: int = 0
    """Of the MLP that every token goes through beside them."""
    has_shared_gate: bool = False
    """Whether tokens weigh what that MLP adds."""
    scales_inputs: bool = False
    """Whether scores scale what experts get, and not what they give."""


@dataclass(frozen=True, kw_only=True)
class ModelDimensions:
    """The widths that decide what a token costs."""

    num_layers: int
    hidden_size: int
    ffn_hidden_size: int
    num_query_heads: int
    num_query_groups: int
    head_dim: int
    is_gated: bool
    has_output_gate: bool = False
    """Of attention: as many gates as queries come out of the same matrix."""
    padded_vocab_size: int
    experts: Experts | None = None
    num_more_mlp_tensors: int = 0
    """What an MLP keeps for backward beyond GELU, or gated, beyond SwiGLU."""
    window: Window | None = None
    """Of attention; every layer counts as the mean of those with the window and those without."""

    @property
    def layer_parameters(self) -> int:
        """Parameters of one layer's matrices: query, key, value, output projection and MLP or experts."""
        if self.experts is None:
            return self.attention_parameters + self.mlp_parameters(self.ffn_hidden_size)
        return self._with_experts(self.experts.num_experts)

    @property
    def active_layer_parameters(self) -> int:
        """Those of them that a token meets: of the experts, only the ones it goes to."""
        return self.layer_parameters if self.experts is None else self._with_experts(self.experts.topk)

    def _with_experts(self, number: int) -> int:
        assert self.experts is not None
        router = self.hidden_size * (self.experts.num_experts + self.experts.has_shared_gate)
        width = number * self.experts.ffn_hidden_size + self.experts.shared_ffn_hidden_size
        return self.attention_parameters + router + self.mlp_parameters(width)

    @property
    def attention_parameters(self) -> int:
        """Of query, key, value (and gate) and output projection."""
        query = self.num_query_heads * self.head_dim
        return self.hidden_size * (query + self.projected_width)

    @property
    def projected_width(self) -> int:
        """Queries, keys, values and gates of a token."""
        heads = self.num_query_heads * (2 if self.has_output_gate else 1)
        return (heads + 2 * self.num_query_groups) * self.head_dim

    def mlp_parameters(self, width: int) -> int:
        """Of an MLP, or of experts, of this width together."""
        return self.hidden_size * width * (3 if self.is_gated else 2)

    @property
    def layer_flops_per_token(self) -> float:
        """Forward of one layer's matrices for one token."""
        return 2.0 * self.active_layer_parameters

    @property
    def layer_flops_per_pair(self) -> float:
        """Forward of one layer's attention for one pair of a query and a key it sees."""
        return 4.0 * self.num_query_heads * self.head_dim

    def pairs(self, start: int, stop: int) -> float:
        """Pairs of a query in tokens [start, stop) and a key it sees."""
        return causal_pairs(start, stop, self.window)

    @property
    def head_flops_per_token(self) -> float:
        """Forward of the vocabulary projection for one token; only the last stage computes it."""
        return 2.0 * self.hidden_size * self.padded_vocab_size


class PartitionCosts(TypedDict):
    """What `partition` takes."""

    linear_cost: float
    attention_cost: float
    window: Window | None


def causal_pairs(start: int, stop: int, window: Window | None = None) -> float:
    """Pairs of a query in tokens [start, stop) and a key it sees."""
    return pairs_of_first(stop, window) - pairs_of_first(start, window)


def window_of(
    window_size: tuple[int, int] | None, skip_freq: int | Sequence[int] | None, *, num_layers: int
) -> Window | None:
    """Megatron-Core's `window_size` (keys before a query, and after it) and `window_attn_skip_freq`.

    Every `skip_freq`-th layer attends without the window; a sequence names those with it. Fewer than
    0 keys before a query means all of them.
    """
    if not window_size or window_size[0] < 0:
        return None
    without = 0
    if isinstance(skip_freq, int):
        without = num_layers // skip_freq
    elif skip_freq is not None:
        without = sum(not has_window for has_window in skip_freq)
    return Window(keys=window_size[0] + 1, windowless_share=without / num_layers)


def training_flops_per_sequence(dimensions: ModelDimensions, seq_length: int) -> float:
    """Forward and backward of one sequence without recomputation: the numerator of MFU.

    Backward counts twice the forward throughout, attention included: what the mathematics needs,
    not what a kernel that recomputes its scores does.
    """
    layer = seq_length * dimensions.layer_flops_per_token
    layer += dimensions.pairs(0, seq_length) * dimensions.layer_flops_per_pair
    forward = dimensions.num_layers * layer + seq_length * dimensions.head_flops_per_token
    return 3.0 * forward


def forward_flops(dimensions: ModelDimensions, start: int, stop: int) -> float:
    """Forward of tokens [start, stop) through one layer."""
    linear = (stop - start) * dimensions.layer_flops_per_token
    return linear + dimensions.pairs(start, stop) * dimensions.layer_flops_per_pair


def backward_flops(dimensions: ModelDimensions, start: int, stop: int) -> float:
    """What a backward of tokens [start, stop) through one layer executes."""
    linear = (stop - start) * dimensions.layer_flops_per_token * BACKWARD_OF_LINEAR
    pairs = dimensions.pairs(start, stop) * dimensions.layer_flops_per_pair
    return linear + pairs * BACKWARD_OF_ATTENTION


def partition_costs(dimensions: ModelDimensions) -> PartitionCosts:
    """Cost of a token and of a (query, key) pair through one layer, forward and backward."""
    return PartitionCosts(
        linear_cost=dimensions.layer_flops_per_token * (1.0 + BACKWARD_OF_LINEAR),
        attention_cost=dimensions.layer_flops_per_pair * (1.0 + BACKWARD_OF_ATTENTION),
        window=dimensions.window,
    )
