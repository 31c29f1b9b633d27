"""A GPT of Megatron-Core with our attention core, rotary table, norm and loss in it.

The same model serves every schedule, chunked or not, so that comparisons are fair.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import parallel_state, tensor_parallel
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import (
    TransformerBlockSubmodules,
    get_num_layers_to_build,
)
from megatron.core.transformer.transformer_config import TransformerConfig

from megatron.seq1f1b.attention import ChunkedCoreAttention
from megatron.seq1f1b.model.initialization import initialize_weights
from megatron.seq1f1b.model.loss_slices import sliced_losses
from megatron.seq1f1b.model.norm import L2Norm, Norm
from megatron.seq1f1b.model.output_gate import GatedSelfAttention
from megatron.seq1f1b.model.rotary import ChunkRotaryEmbedding
from megatron.seq1f1b.upstream.experts import mend_experts
from megatron.seq1f1b.upstream.recompute import mend_recompute
from megatron.seq1f1b.upstream.split_linear import keep_in_graph


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """What a GPT needs beside Megatron-Core's `TransformerConfig`."""

    vocab_size: int
    """Ids in use, end-of-document included."""
    padded_vocab_size: int
    """Rows of the embedding and the output layer."""
    max_position_embeddings: int
    position_embedding_type: str
    """`rope`, `learned_absolute` or `none`."""
    rotary_base: int = 10000
    rotary_percent: float = 1.0
    rotary_interpolation_factor: float | None = None
    """Positions are divided by it."""
    rope_scaling_factor: float | None = None
    """How far Llama 3.1's rule stretches long periods; None for not at all."""
    is_output_tied: bool = True
    has_xavier_weights: bool = False
    """Initial weights are uniform after Xavier's rule instead of normal."""
    seed: int = 1234
    attention_backend: str = "auto"
    """One of the attention room's `BACKEND_NAMES`."""
    cross_entropy_slice_tokens: int | None = None
    """Most tokens whose logits exist at once; None for those of a chunk."""


class ChunkedGPTModel(GPTModel):
    """Megatron-Core's GPT with chunk-aware rotary positions and a padding-free loss."""

    def __init__(self, *, shape: ModelShape, **keywords: object) -> None:
        super().__init__(
            vocab_size=shape.padded_vocab_size,
            max_sequence_length=shape.max_position_embeddings,
            position_embedding_type=shape.position_embedding_type,
            rotary_base=shape.rotary_base,
            rotary_percent=shape.rotary_percent,
            seq_len_interpolation_factor=shape.rotary_interpolation_factor,
            rope_scaling=shape.rope_scaling_factor is not None,
            rope_scaling_factor=shape.rope_scaling_factor or 1.0,
            share_embeddings_and_output_weights=shape.is_output_tied,
            **keywords,
        )
        self._num_ids = shape.vocab_size
        self._slice_tokens = shape.cross_entropy_slice_tokens
        if self.post_process and self._slice_tokens is not None:
            keep_in_graph(self.output_layer)
        if self.pre_process and shape.position_embedding_type == "learned_absolute":
            # Upstream makes the position table in torch's default type.
            self.embedding.position_embeddings.to(self.config.params_dtype)
        if shape.position_embedding_type == "rope":
            self.rotary_pos_emb.__class__ = ChunkRotaryEmbedding  # it adds behaviour, no state

    def _postprocess(self, hidden_states: torch.Tensor, *args: object, **keywords: Any) -> torch.Tensor:
        """Losses of tokens where there are labels, in slices where asked for; else as upstream."""
        labels = keywords.get("labels")
        if not self.post_process or labels is None or self._slice_tokens is None:
            result: torch.Tensor = super()._postprocess(hidden_states, *args, **keywords)
            return result
        weight = (
            self.shared_embedding_or_output_weight() if self.share_embeddings_and_output_weights else None
        )

        def losses_of(rows: torch.Tensor, row_labels: torch.Tensor) -> torch.Tensor:
            logits, _ = self.output_layer(rows, weight=weight)
            return self.compute_language_model_loss(row_labels, logits)

        is_shared = self.config.sequence_parallel
        return sliced_losses(
            hidden_states,
            labels,
            losses_of,
            max_tokens=self._slice_tokens,
            num_parts=self.config.tensor_model_parallel_size if is_shared else 1,
        )

    def compute_language_model_loss(self, labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of every token over the ids in use, `[batch, sequence]`.

        Args:
            labels: ids, `[batch, sequence]`.
            logits: `[sequence, batch, padded vocabulary / tensor parallelism]`.

        Padding of the vocabulary takes no part, so the loss is the same under any tensor
        parallelism. Without tensor parallelism the loss has the logits' precision, at least
        float32; with it Megatron-Core's vocabulary-parallel loss computes in float32.
        """
        self._mask_padding(logits)
        by_position = labels.transpose(0, 1).contiguous()
        if self.config.tensor_model_parallel_size > 1:
            loss = tensor_parallel.vocab_parallel_cross_entropy(logits, by_position)
        else:
            wide = logits if logits.dtype == torch.float64 else logits.float()
            flat = F.cross_entropy(wide.flatten(0, 1), by_position.flatten(), reduction="none")
            loss = flat.view_as(by_position)
        return loss.transpose(0, 1).contiguous()

    @torch.no_grad()
    def _mask_padding(self, logits: torch.Tensor) -> None:
        """Set the logits of padding to minus infinity in place; their gradients are zero then."""
        rank = parallel_state.get_tensor_model_parallel_rank()
        num_local = max(0, self._num_ids - rank * logits.shape[-1])
        if num_local < logits.shape[-1]:
            logits[..., num_local:] = float("-inf")


def layer_spec(config: TransformerConfig, *, attention_backend: str = "auto") -> ModuleSpec:
    """Megatron-Core's own layer spec with our norm and chunked core attention in it."""
    spec = get_gpt_layer_local_spec(
        num_experts=config.num_moe_experts,
        moe_grouped_gemm=config.moe_grouped_gemm,
        qk_layernorm=config.qk_layernorm,
        qk_l2_norm=config.qk_l2_norm,
        normalization=config.normalization,
    )
    layer = spec.submodules
    layer.input_layernorm = Norm
    layer.pre_mlp_layernorm = Norm
    attention = layer.self_attention.submodules
    attention.core_attention = ModuleSpec(module=ChunkedCoreAttention, params={"backend": attention_backend})
    if config.attention_output_gate:
        layer.self_attention.module = GatedSelfAttention
    if config.qk_layernorm or config.qk_l2_norm:
        norm = L2Norm if config.qk_l2_norm else Norm
        attention.q_layernorm = norm
        attention.k_layernorm = norm
    return spec


def build_model_part(
    config: TransformerConfig, shape: ModelShape, *, vp_stage: int | None = None
) -> ChunkedGPTModel:
    """One model part of this process's pipeline stage, its weights set from the seed.

    Args:
        config: Megatron-Core's, parallel sizes included; parallel state must be initialised.
        shape: vocabulary, positions, output tying and seed.
        vp_stage: which model part of this rank, None without virtual stages.
    """
    if config.num_moe_experts is not None:
        mend_experts()
    num_layers = get_num_layers_to_build(config, vp_stage)
    model = ChunkedGPTModel(
        shape=shape,
        config=config,
        transformer_layer_spec=TransformerBlockSubmodules(
            layer_specs=[layer_spec(config, attention_backend=shape.attention_backend)] * num_layers,
            layer_norm=Norm,
        ),
        pre_process=parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=vp_stage),
        post_process=parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=vp_stage),
        vp_stage=vp_stage,
    )
    mend_recompute(model)
    initialize_weights(
        model, seed=shape.seed, vocab_size=shape.vocab_size, is_xavier=shape.has_xavier_weights
    )
    return model
