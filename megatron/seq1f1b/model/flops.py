"""Floating-point operations of a GPT: the one cost model of partition, MFU, simulator and planner.

A multiply-add counts as two. A query meets only the keys it may see, so a causal sequence of S
tokens has S^2 / 2 pairs of query and key. Pure arithmetic, no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

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
    padded_vocab_size: int
    experts: Experts | None = None

    @property
    def layer_parameters(self) -> int:
        """Parameters of one layer's matrices: query, key, value, output projection and MLP or experts."""
        if self.experts is None:
            return self._attention_parameters + self._mlp_parameters(self.ffn_hidden_size)
        return self._with_experts(self.experts.num_experts)

    @property
    def active_layer_parameters(self) -> int:
        """Those of them that a token meets: of the experts, only the ones it goes to."""
        return self.layer_parameters if self.experts is None else self._with_experts(self.experts.topk)

    def _with_experts(self, number: int) -> int:
        assert self.experts is not None
        router = self.hidden_size * self.experts.num_experts
        width = number * self.experts.ffn_hidden_size + self.experts.shared_ffn_hidden_size
        return self._attention_parameters + router + self._mlp_parameters(width)

    @property
    def _attention_parameters(self) -> int:
        query = self.num_query_heads * self.head_dim
        key_value = 2 * self.num_query_groups * self.head_dim
        return self.hidden_size * (2 * query + key_value)

    def _mlp_parameters(self, width: int) -> int:
        return self.hidden_size * width * (3 if self.is_gated else 2)

    @property
    def layer_flops_per_token(self) -> float:
        """Forward of one layer's matrices for one token."""
        return 2.0 * self.active_layer_parameters

    @property
    def layer_flops_per_pair(self) -> float:
        """Forward of one layer's attention for one pair of a query and a key it sees."""
        return 4.0 * self.num_query_heads * self.head_dim

    @property
    def head_flops_per_token(self) -> float:
        """Forward of the vocabulary projection for one token; only the last stage computes it."""
        return 2.0 * self.hidden_size * self.padded_vocab_size


def causal_pairs(start: int, stop: int) -> float:
    """Pairs of a query in tokens [start, stop) and a key it sees."""
    return (stop * stop - start * start) / 2.0


def training_flops_per_sequence(dimensions: ModelDimensions, seq_length: int) -> float:
    """Forward and backward of one sequence without recomputation: the numerator of MFU.

    Backward counts twice the forward throughout, attention included: what the mathematics needs,
    not what a kernel that recomputes its scores does.
    """
    layer = seq_length * dimensions.layer_flops_per_token
    layer += causal_pairs(0, seq_length) * dimensions.layer_flops_per_pair
    forward = dimensions.num_layers * layer + seq_length * dimensions.head_flops_per_token
    return 3.0 * forward


def forward_flops(dimensions: ModelDimensions, start: int, stop: int) -> float:
    """Forward of tokens [start, stop) through one layer."""
    linear = (stop - start) * dimensions.layer_flops_per_token
    return linear + causal_pairs(start, stop) * dimensions.layer_flops_per_pair


def backward_flops(dimensions: ModelDimensions, start: int, stop: int) -> float:
    """What a backward of tokens [start, stop) through one layer executes."""
    linear = (stop - start) * dimensions.layer_flops_per_token * BACKWARD_OF_LINEAR
    pairs = causal_pairs(start, stop) * dimensions.layer_flops_per_pair
    return linear + pairs * BACKWARD_OF_ATTENTION


def partition_costs(dimensions: ModelDimensions) -> tuple[float, float]:
    """Cost of a token and of a (query, key) pair through one layer, forward and backward."""
    linear = dimensions.layer_flops_per_token * (1.0 + BACKWARD_OF_LINEAR)
    return linear, dimensions.layer_flops_per_pair * (1.0 + BACKWARD_OF_ATTENTION)
