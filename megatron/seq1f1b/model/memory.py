"""What a GPT's layers hold, in closed form: parameters, activations by token, caches, temporaries.

Derived from what Megatron-Core's layers with our attention core save for backward; the dry run
counts the same by storage (`planning/dry_run.py`), and tests hold the two together. With t-fold
tensor parallelism, per token of one layer and element:

    input, norm, attention's input and norm again   4 h, over t with sequence parallelism
    queries, output                                 2 q / t        log-sum-exp, float32: heads / t
    angles of the rotary embedding                  4 r            cos and sin for queries and keys
    MLP                                             2 f / t        gated: 5 f / t
    keys and values                                 2 kv / t       in the cache, whole sequences; min. a group

Sizes are bytes on one rank. Pure arithmetic, no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property

from megatron.seq1f1b.model.expert_memory import ExpertMemory, num_mlp_tensors
from megatron.seq1f1b.model.flops import ModelDimensions
from megatron.seq1f1b.model.update_memory import UpdateMemory


class Recompute(str, Enum):
    """What backward computes again instead of keeping it."""

    NONE = "none"
    SELECTIVE = "selective"
    """The attention core. Its inputs are kept, and with them the fused projection that values are a view
    of; since flash attention keeps no scores, that is more than it saves."""
    FULL = "full"
    """Whole layers: their inputs and the KV cache are kept."""


class KVHolding(str, Enum):
    """How keys and values of a chunked sequence are kept."""

    IN_PLACE = "in-place"
    """One buffer per layer and microbatch for the whole sequence."""
    CONCATENATED = "concatenated"
    """As in the public Seq1F1B code: every chunk keeps its own, and the concatenation of all up to it."""


@dataclass(frozen=True, kw_only=True)
class ModelMemory:
    """A model as its ranks hold it; `*_per_token` is for one sequence of a microbatch."""

    dimensions: ModelDimensions
    tensor_parallel: int = 1
    is_sequence_parallel: bool = False
    is_mixed: bool = True
    """bfloat16 with float32 master weights; else float32."""
    update: UpdateMemory = field(default_factory=UpdateMemory)
    optimizer_shards: int = 1
    """Data-parallel ranks that share the optimizer's states."""
    rotary_dim: int = 0
    """Rotating channels of a head; 0 without rotary embedding."""
    rotary_share: float = 1.0
    """Of the layers, those with rotary positions; every one counts as the mean."""
    num_learned_positions: int = 0
    has_linear_bias: bool = True
    has_qkv_bias: bool = True
    has_norm_bias: bool = True
    """LayerNorm's; RMSNorm has none."""
    has_wide_norms: bool = False
    """Whether norms work on a float32 copy of their input."""
    has_qk_norm: bool = False
    has_qk_norm_weights: bool = True
    is_output_tied: bool = False
    has_dropout: bool = False
    """Of hidden states."""
    recompute: Recompute = Recompute.NONE
    num_recomputed: int | None = None
    """With FULL: only the first so many layers of a model part; None for all."""
    recomputed_together: int = 1
    """With FULL: so many layers in a row keep the first one's input alone."""
    kv_holding: KVHolding = KVHolding.IN_PLACE
    cross_entropy_slice_tokens: int | None = None
    """Most tokens whose logits exist at once; None for those of a chunk."""
    expert_parallel: int = 1
    """Ranks that share the experts of every layer; they are data-parallel ranks."""
    gathers_tokens: bool = True
    """Of experts: Megatron-Core's `allgather` dispatcher, not `alltoall`."""
    has_load_balancing: bool = False

    @property
    def element_bytes(self) -> int:
        """Of an activation or a parameter."""
        return 2 if self.is_mixed else 4

    @property
    def _query(self) -> float:
        return self.dimensions.num_query_heads * self.dimensions.head_dim / self.tensor_parallel

    @property
    def _query_groups(self) -> float:
        """Ranks beyond the number of groups share them."""
        return max(self.dimensions.num_query_groups / self.tensor_parallel, 1)

    @property
    def _key_value(self) -> float:
        """Keys and values of one token."""
        return 2 * self._query_groups * self.dimensions.head_dim

    @property
    def _projected(self) -> float:
        """Queries, keys, values and gates of one token as the layer's matrix makes them."""
        return self.dimensions.projected_width / self.tensor_parallel

    @property
    def _hidden(self) -> float:
        """Of one token between the tensor-parallel layers."""
        shards = self.tensor_parallel if self.is_sequence_parallel else 1
        return self.dimensions.hidden_size / shards

    @property
    def _ffn(self) -> float:
        return self.dimensions.ffn_hidden_size / self.tensor_parallel

    @property
    def _vocab(self) -> float:
        return self.dimensions.padded_vocab_size / self.tensor_parallel

    @property
    def _log_sum_exp_bytes(self) -> float:
        return 4 * self.dimensions.num_query_heads / self.tensor_parallel

    # --- parameters

    def layer_parameters(self) -> float:
        """Of one layer on one rank."""
        d = self.dimensions
        norms = 2 * d.hidden_size * (2 if self.has_norm_bias else 1)
        if self.has_qk_norm and self.has_qk_norm_weights:
            norms += 2 * d.head_dim * (2 if self.has_norm_bias else 1)
        biases = 0.0
        if self.has_linear_bias:
            biases += 2 * d.hidden_size + self._ffn * (2 if d.is_gated else 1)
        if self.has_qkv_bias:
            biases += self._projected
        matrices = d.attention_parameters + (0 if self.mixture else d.mlp_parameters(d.ffn_hidden_size))
        experts = self.mixture.parameters() + self.mixture.dense_parameters() if self.mixture else 0.0
        return matrices / self.tensor_parallel + norms + biases + experts

    def layer_expert_parameters(self) -> float:
        """Those of them that belong to experts, which fewer ranks hold alike."""
        return self.mixture.parameters() if self.mixture else 0.0

    def embedding_parameters(self) -> float:
        """Of the first virtual stage beside its layers."""
        return (self._vocab + self.num_learned_positions) * self.dimensions.hidden_size

    def head_parameters(self, *, is_alone: bool) -> float:
        """Of the last virtual stage beside its layers; `is_alone` where it is also the first."""
        norm = self.dimensions.hidden_size * (2 if self.has_norm_bias else 1)
        return norm + (0 if self.is_output_tied and is_alone else self._vocab * self.dimensions.hidden_size)

    def optimizer_bytes(self, parameters: float, *, of_experts: float = 0.0) -> float:
        """Of the optimizer's states of so many parameters, some of them of experts."""
        alike = max(1, self.optimizer_shards // self.expert_parallel)
        kept = (parameters - of_experts) / self.optimizer_shards + of_experts / alike
        return kept * self.update.optimizer_bytes(is_mixed=self.is_mixed)

    # --- what stays from forward to backward

    def part_bytes_per_token(self, layers: int, *, micro_batch_size: int = 1) -> float:
        """Saved by so many layers beside keys and values; a microbatch's sequences share the angles."""
        recomputed = 0
        if self.recompute is Recompute.FULL:
            recomputed = layers if self.num_recomputed is None else min(layers, self.num_recomputed)
        inputs = -(-recomputed // self.recomputed_together) * self._hidden * self.element_bytes
        return inputs + (layers - recomputed) * self._kept_layer_bytes(micro_batch_size)

    def _kept_layer_bytes(self, micro_batch_size: int) -> float:
        saved = self._layer_bytes(micro_batch_size) + self._mask_bytes
        if self.recompute is Recompute.SELECTIVE:
            # The output stays: the projection reads it.
            return saved + (self._fused_projection + self._key_value / 2) * self.element_bytes
        return saved + self._log_sum_exp_bytes

    def saved_layer_bytes_per_token(self) -> float:
        """What one layer makes and reads again, whether it is kept or recomputed."""
        return self._layer_bytes(1) + self.kv_bytes_per_token()

    def embedding_mask_bytes_per_token(self) -> float:
        """Saved by the dropout of the embedding's output."""
        return self._mask_bytes / 2

    @property
    def _mask_bytes(self) -> float:
        """What the dropouts behind attention and MLP let through, a byte each."""
        return 2 * self._hidden if self.has_dropout else 0.0

    def _layer_bytes(self, micro_batch_size: int) -> float:
        angles = 4 * self.rotary_dim * self.rotary_share / micro_batch_size
        elements = 2 * self._hidden + 2 * self._query + angles
        norms = 2 * self._hidden * self._norm_input_bytes + self._qk_norm_bytes
        # Of a gate: its sigmoid, float32, and what it lets through.
        gate = self._query * (4 + self.element_bytes) if self.dimensions.has_output_gate else 0
        return elements * self.element_bytes + norms + gate + self._mlp_bytes

    @property
    def _norm_input_bytes(self) -> int:
        return 4 if self.has_wide_norms else self.element_bytes

    @property
    def _qk_norm_bytes(self) -> float:
        """Of norms of queries and keys: statistics and inputs, views of the projection or wider copies."""
        if not self.has_qk_norm:
            return 0.0
        elements = self._query + self._key_value / 2
        statistics = elements / self.dimensions.head_dim * (8 if self.has_norm_bias else 4)
        if self.has_wide_norms and self.is_mixed:
            return elements * 4 + statistics
        return self._fused_projection * self.element_bytes + statistics

    @property
    def _mlp_bytes(self) -> float:
        if self.mixture:
            return self.mixture.saved_bytes_per_token()
        return num_mlp_tensors(self.dimensions) * self._ffn * self.element_bytes

    @cached_property
    def mixture(self) -> ExpertMemory | None:
        """The experts in the place of the MLP."""
        if self.dimensions.experts is None:
            return None
        return ExpertMemory(
            dimensions=self.dimensions,
            element_bytes=self.element_bytes,
            tensor_parallel=self.tensor_parallel,
            expert_parallel=self.expert_parallel,
            gathers_tokens=self.gathers_tokens,
            has_load_balancing=self.has_load_balancing,
        )

    @property
    def _fused_projection(self) -> float:
        """Queries, keys and values as one tensor, which ranks that share a group gather.

        Queries of several groups are a copy of their part.
        """
        if self.dimensions.num_query_groups < self.tensor_parallel:
            return self._projected * self.tensor_parallel
        is_grouped = self.dimensions.num_query_groups != self.dimensions.num_query_heads
        return self._projected + (self._query if is_grouped and self._query_groups > 1 else 0)

    def pending_bytes_per_token(self) -> float:
        """Held by one layer between I and W: operands of the weight gradients."""
        d = self.dimensions
        if self.mixture:
            attention = self._hidden + self._query + self._projected + d.hidden_size
            return attention * self.element_bytes + self.mixture.pending_bytes_per_token()
        inputs = 2 * self._hidden + self._query + self._ffn
        grads = self._projected + 2 * d.hidden_size + self._ffn * (2 if d.is_gated else 1)
        return (inputs + grads) * self.element_bytes

    def pending_head_bytes_per_token(self) -> float:
        """The same of the output layer: its input and the gradient of the logits."""
        return (self._hidden + self._vocab) * self.element_bytes

    def kv_bytes_per_token(self) -> float:
        """Keys and values of one layer."""
        return self._key_value * self.element_bytes

    def dkv_bytes_per_token(self) -> float:
        """Their gradients' accumulator of one layer, float32."""
        return self._key_value * 4

    def head_bytes_per_token(self) -> float:
        """Saved by the final norm and the output layer."""
        return self._hidden * (self._norm_input_bytes + self.element_bytes)

    def softmax_bytes(self, tokens: int) -> float:
        """Saved by the loss: probabilities in float32; slices compute them again."""
        return 0.0 if self.cross_entropy_slice_tokens is not None else 4 * self._vocab * tokens

    def message_bytes_per_token(self) -> float:
        """Of the hidden states between stages."""
        return self._hidden * self.element_bytes

    def rotary_table_bytes_per_token(self) -> float:
        """Angles, float32, kept for every position; once per model part."""
        return 4 * self.rotary_dim

    def gathered_bytes_per_token(self) -> float:
        """The buffer in which sequence parallelism gathers a layer's input; one per rank, kept."""
        return self.dimensions.hidden_size * self.element_bytes if self.is_sequence_parallel else 0.0

    def gathered_for_experts_bytes_per_token(self) -> float:
        """The same buffer with the tokens of all ranks that share experts."""
        return self.mixture.gathered_bytes_per_token() if self.mixture else 0.0

    # --- what an action holds beyond what it keeps

    def forward_temporary_bytes_per_token(self) -> float:
        """Beyond what forward saves: the last layer's output before and after it is scattered.

        Or bare, with its bias, dropped out and with the residual added, where that is more.
        """
        scattered = self._hidden + (self.dimensions.hidden_size if self.is_sequence_parallel else 0)
        added = self._hidden * (2 + self.has_linear_bias + self.has_dropout)
        if self.recompute is Recompute.FULL and self.num_recomputed is None:
            # Such a layer keeps nothing: the residual, the norm's output and what the MLP works on.
            added = max(added, 2 * self._hidden + self._mlp_work_elements)
        bare = max(scattered, added) * self.element_bytes
        return max(bare, self.mixture.forward_temporary_bytes_per_token()) if self.mixture else bare

    @property
    def _mlp_work_elements(self) -> float:
        """What an MLP works on when it keeps nothing; experts see their tokens and make their outputs."""
        if self.mixture is None:
            return num_mlp_tensors(self.dimensions) * self._ffn
        tokens = self.mixture.experts.topk * self.dimensions.hidden_size
        return tokens + self.mixture.forward_temporary_bytes_per_token() / self.element_bytes

    def head_forward_temporary_bytes(self, tokens: int) -> float:
        """Beyond what the loss saves: logits, and without tensor parallelism their float32 copy.

        The vocabulary-parallel loss turns float32 logits into what it saves, in place.
        """
        beside = self.element_bytes + (4 if self.is_mixed else 0)
        if self.tensor_parallel > 1:
            beside = self.element_bytes if self.is_mixed else 0
        if self.cross_entropy_slice_tokens is None:
            return tokens * self._vocab * beside
        return self._slice(tokens) * self._vocab * (beside + 4)

    def head_backward_temporary_bytes(self, tokens: int) -> float:
        """Gradients of the logits; the vocabulary-parallel loss makes them in place of what it saved.

        In slices, what was not saved too, and the weight's gradient: the sum of earlier slices, this
        one's, and the two added.
        """
        gradients = 2 * 4
        if self.tensor_parallel > 1:
            gradients = self.element_bytes if self.is_mixed else 0
        if self.cross_entropy_slice_tokens is None:
            return tokens * self._vocab * gradients
        weight = self._vocab * self.dimensions.hidden_size * self.element_bytes
        logits = self._slice(tokens) * self._vocab
        if self._slice(tokens) == tokens:
            return max(logits * (gradients + 4), logits * self.element_bytes + weight)
        return max(logits * (gradients + 4) + weight, 3 * weight)

    def _slice(self, tokens: int) -> int:
        return min(tokens, self.cross_entropy_slice_tokens or tokens)

    def backward_temporary_bytes(self, tokens: int, prefix: int, *, is_gradient_received: bool) -> float:
        """Beyond what forward saved, at the worst moment of the top layer's backward.

        In the MLP's second matrix nothing saved has been freed, in a gate its input has, in
        attention the whole MLP's. A gradient that was received lies in a message's buffer, until a
        dropout makes another of it.
        """
        d, element = self.dimensions, self.element_bytes
        gathered = d.hidden_size if self.is_sequence_parallel else 0
        weight_grad = d.hidden_size * self._ffn * element
        own = 0.0 if is_gradient_received and not self.has_dropout else self._hidden
        matrix = tokens * (own + gathered + self._ffn) * element + weight_grad
        gate = tokens * (own + 2 * self._ffn) * element if d.is_gated else 0.0
        if self.mixture:
            matrix = tokens * own * element + self.mixture.backward_temporary_bytes(tokens)
            # Recomputing experts can hold more than their backward.
            remade = self.recompute is Recompute.FULL
            gate = tokens * self.mixture.forward_temporary_bytes_per_token() if remade else 0.0
        freed = self._mlp_bytes + 2 * self._hidden * element
        query_grads = tokens * self._query * (2 * element + 4)
        rows = (tokens + prefix) * self._key_value * element
        if d.num_query_groups != d.num_query_heads:
            rows += rows * d.num_query_heads / self.tensor_parallel / self._query_groups
        attention = tokens * (2 * self._hidden * element - freed) + query_grads + rows
        return max(matrix, gate, attention) + tokens * self._recomputed_layer_bytes()

    def weight_temporary_bytes(self, *, has_head: bool) -> float:
        """The first weight's gradient, before it is added to others; later ones find its operands gone."""
        is_head = has_head and self.cross_entropy_slice_tokens is None
        if self.mixture and not is_head:
            return self.mixture.first_gradient_bytes()
        rows = self._vocab if is_head else self._ffn
        return rows * self.dimensions.hidden_size * self.element_bytes

    def embedding_backward_bytes(self, tokens: int) -> float:
        """The embedding's gradient, as large as itself, and that of its output."""
        rows = max(self._vocab, self.num_learned_positions)
        return (rows + tokens) * self.dimensions.hidden_size * self.element_bytes

    def _recomputed_layer_bytes(self) -> float:
        """Activations made again at once under full recomputation.

        Where later layers are kept, those are gone when the first ones are made again.
        """
        if self.recompute is not Recompute.FULL or self.num_recomputed is not None:
            return 0.0
        layer = self._layer_bytes(1) + self._mask_bytes + self._log_sum_exp_bytes
        return self.recomputed_together * layer - self._hidden * self.element_bytes
