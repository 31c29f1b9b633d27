"""What a layer's mixture of experts holds in the place of an MLP, in closed form.

Experts are taken to get equally many tokens; where routers send more to those of one rank, that rank
holds more, up to what all tokens need. Tokens come from all ranks that share the experts, so a rank's
experts see `topk` times the tokens of a chunk, at full width. By token and element, with experts
of width f, t-fold tensor parallelism:

    tokens by expert    topk h
    experts             3 topk f / t     gated: 6 topk f / t; one more than an MLP, for the product with
                                         the routers' probabilities
                        or topk h in its place, where their inputs are scaled instead
    shared expert       as an MLP of its width; h / t with a gate, for the product with it
    routing             a few bytes per expert and choice

The dry run counts the same by storage, as balanced. Pure arithmetic, no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from megatron.seq1f1b.model.flops import Experts, ModelDimensions

_BYTES_PER_CHOICE = 8 + 8 + 4
"""Which expert, where the token came from, and how much of it was chosen."""


def num_mlp_tensors(dimensions: ModelDimensions) -> int:
    """Of an MLP's width, that a forward keeps for its backward.

    Gated: both halves before the gate, the gate, the other half with its offset, the product.
    """
    return (5 if dimensions.is_gated else 2) + dimensions.num_more_mlp_tensors


@dataclass(frozen=True, kw_only=True)
class ExpertMemory:
    """The experts of one layer on one rank; sizes are bytes."""

    dimensions: ModelDimensions
    element_bytes: int
    tensor_parallel: int = 1
    expert_parallel: int = 1
    gathers_tokens: bool = True
    """Whether ranks gather all tokens (`allgather`) or send each where it goes (`alltoall`)."""
    has_load_balancing: bool = False
    """Whether an auxiliary loss keeps scores of all experts."""

    @property
    def experts(self) -> Experts:
        """The model's, which has some."""
        assert self.dimensions.experts is not None
        return self.dimensions.experts

    @property
    def num_local(self) -> float:
        """Experts on a rank."""
        return self.experts.num_experts / self.expert_parallel

    @property
    def _ffn(self) -> float:
        return self.experts.ffn_hidden_size / self.tensor_parallel

    @property
    def _shared(self) -> float:
        return self.experts.shared_ffn_hidden_size / self.tensor_parallel

    @property
    def _hidden_bytes(self) -> int:
        return self.dimensions.hidden_size * self.element_bytes

    def parameters(self) -> float:
        """Of the experts that ranks share."""
        width = self.experts.ffn_hidden_size
        return self.num_local * self.dimensions.mlp_parameters(width) / self.tensor_parallel

    def dense_parameters(self) -> float:
        """Of the router, whole on every rank, and the shared expert with its gate."""
        shared = self.dimensions.mlp_parameters(self.experts.shared_ffn_hidden_size) / self.tensor_parallel
        return (
            self.experts.num_experts + self.experts.has_shared_gate
        ) * self.dimensions.hidden_size + shared

    def saved_bytes_per_token(self) -> float:
        """Kept for backward beside the norm's output."""
        topk, number = self.experts.topk, self.experts.num_experts
        tensors = num_mlp_tensors(self.dimensions)
        scaled = self.dimensions.hidden_size if self.experts.scales_inputs else self._ffn
        widths = topk * (self.dimensions.hidden_size + tensors * self._ffn + scaled)
        widths += tensors * self._shared + topk
        if self.experts.has_shared_gate:
            widths += self.dimensions.hidden_size / self.tensor_parallel
        masks = 2 * number + (number * (4 + self.element_bytes) if self.has_load_balancing else 0)
        return widths * self.element_bytes + topk * _BYTES_PER_CHOICE + masks

    def pending_bytes_per_token(self) -> float:
        """Operands of the weight gradients, between I and W."""
        hidden, halves = self.dimensions.hidden_size, 2 if self.dimensions.is_gated else 1
        routed = self.experts.topk * (2 * hidden + (1 + halves) * self._ffn)
        shared = hidden + (1 + halves) * self._shared if self._shared else 0
        return (routed + shared) * self.element_bytes

    def first_gradient_bytes(self) -> float:
        """Of the weight whose gradient comes first."""
        return max(self._ffn, self._shared) * self._hidden_bytes

    def forward_temporary_bytes_per_token(self) -> float:
        """The experts' outputs one by one and joined, or joined and back at their tokens.

        Tokens that are sent stay as they were sent and as they arrived until the experts are done.
        """
        hidden = self._hidden_bytes
        joined = self.experts.topk * hidden
        held = hidden / self.tensor_parallel if self._shared else 0.0
        if not self.gathers_tokens:
            held += joined / self.tensor_parallel * (1 + (self.expert_parallel > 1))
        return held + joined + max(joined if self.num_local > 1 else 0, self.expert_parallel * hidden)

    def gathered_bytes_per_token(self) -> float:
        """The buffer of all ranks' tokens; one per rank, kept."""
        if not self.gathers_tokens or self.expert_parallel * self.tensor_parallel == 1:
            return 0.0
        return self.expert_parallel * self._hidden_bytes

    def backward_temporary_bytes(self, tokens: int) -> float:
        """At the first expert's second matrix: gradients of all experts' outputs, and of its input."""
        inputs = self._ffn / self.num_local * self.element_bytes
        return tokens * self.experts.topk * (self._hidden_bytes + inputs) + self.first_gradient_bytes()
