"""The core attention that Megatron-Core's layers call, chunked or whole.

It stands where `DotProductAttention` stands in a layer specification. With `ChunkSeqParams` it
computes one chunk; without, the whole sequence with the same kernels, so that Megatron-Core's own
schedules run the same attention. What it cannot compute it refuses by name.
"""

from __future__ import annotations

import math

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.utils import is_layer_window_attention

from megatron.seq1f1b.attention.backends import AUTO, AttentionBackend, choose_backend
from megatron.seq1f1b.attention.function import chunked_attention
from megatron.seq1f1b.attention.params import ChunkSeqParams
from megatron.seq1f1b.chunk import Chunk
from megatron.seq1f1b.errors import BackendError


class ChunkedCoreAttention(MegatronModule):
    """Causal self-attention over one chunk and its prefix, or over a whole sequence.

    `apply_query_key_layer_scaling` changes nothing: upstream divides the scores by the layer
    number before its softmax and multiplies them inside it, for half precision's range; the
    kernels here compute scores in float32.

    Args:
        config: the model's configuration.
        layer_number: from 1, over the whole model; the key of the layer's cache.
        attn_mask_type: must be causal.
        attention_type: must be "self".
        attention_dropout: overrides the configuration's; must be 0.
        softmax_scale: factor of the scores; None for 1/sqrt(head_dim).
        cp_comm_type: unused, since context parallelism is refused.
        pg_collection: unused, since sizes per rank are the tensors' own.
        backend: a backend, or one of `BACKEND_NAMES`; a name is resolved at the first call.

    Raises:
        BackendError: the configuration asks for attention that no backend here computes.
    """

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        cp_comm_type: str | None = None,
        pg_collection: ProcessGroupCollection | None = None,
        *,
        backend: str | AttentionBackend = AUTO,
    ) -> None:
        super().__init__(config=config)
        _refuse_configuration(config, attn_mask_type, attention_type)
        self.layer_number = max(1, layer_number)
        self.dropout = config.attention_dropout if attention_dropout is None else attention_dropout
        self.softmax_scale = softmax_scale
        self.window = _window_of(config, self.layer_number)
        self._backend = backend

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        *,
        attn_mask_type: AttnMaskType | None = None,
        attention_bias: torch.Tensor | None = None,
        packed_seq_params: PackedSeqParams | None = None,
    ) -> torch.Tensor:
        """Attention of a chunk, or of a whole sequence without `packed_seq_params`.

        Args:
            query: "chunk batch heads head_dim", after the rotary embedding.
            key: "chunk batch groups head_dim", likewise.
            value: as key.
            attention_mask: must be None; causality and documents are known by position.
            attn_mask_type: None or causal.
            attention_bias: must be None.
            packed_seq_params: None or a `ChunkSeqParams`.

        Returns:
            "chunk batch heads*head_dim".

        Raises:
            BackendError: a mask, bias or parameter that no backend here computes.
            StepError: chunks out of order.
        """
        _refuse_call(attention_mask, attn_mask_type, attention_bias)
        if packed_seq_params is None:
            chunk = Chunk(index=0, count=1, start=0, stop=query.shape[0])
            cache, document_starts = None, None
        elif isinstance(packed_seq_params, ChunkSeqParams):
            chunk, document_starts = packed_seq_params.chunk, packed_seq_params.document_starts
            cache = packed_seq_params.state.cache(self.layer_number)
        else:
            raise BackendError(
                "chunked attention cannot use packed sequences in Megatron-Core's "
                f"{packed_seq_params.qkv_format!r} format; pass ChunkSeqParams with "
                "document_starts instead"
            )
        output = chunked_attention(
            query,
            key,
            value,
            cache=cache,
            chunk=chunk,
            softmax_scale=self.softmax_scale or 1.0 / math.sqrt(query.shape[-1]),
            backend=self._resolve(query, has_documents=document_starts is not None),
            window=self.window,
            document_starts=document_starts,
        )
        return output.flatten(2)

    def _resolve(self, query: torch.Tensor, *, has_documents: bool) -> AttentionBackend:
        if isinstance(self._backend, str):
            self._backend = choose_backend(
                self._backend,
                device=query.device,
                dtype=query.dtype,
                head_dim=query.shape[-1],
                window=self.window,
                dropout=self.dropout,
                deterministic=self.config.deterministic_mode,
                has_documents=has_documents,
            )
        return self._backend


def _window_of(config: TransformerConfig, layer_number: int) -> int | None:
    """Keys before itself that a query of this layer sees; None for all.

    Raises:
        BackendError: the window looks at later keys.
    """
    if not is_layer_window_attention(config.window_size, config.window_attn_skip_freq, layer_number):
        return None
    left, right = config.window_size
    if right not in (0, -1):
        raise BackendError(
            f"--window-size {left},{right}: causal attention sees no later keys; use --window-size {left},0"
        )
    return None if left < 0 else left


def _refuse_configuration(
    config: TransformerConfig, attn_mask_type: AttnMaskType, attention_type: str
) -> None:
    """Raise BackendError for what the configuration asks and no backend here computes."""
    refusals = {
        f"attention type {attention_type!r}; only 'self' is chunked": attention_type != "self",
        f"mask type {attn_mask_type.name!r}; only 'causal' is chunked": (
            attn_mask_type is not AttnMaskType.causal
        ),
        f"context_parallel_size {config.context_parallel_size}; use 1, chunks already divide the "
        "sequence": config.context_parallel_size > 1,
        f"softmax_type {config.softmax_type!r}; use 'vanilla'": config.softmax_type != "vanilla",
        "qk_clip, which needs the largest score; turn it off": config.qk_clip,
        "log_max_attention_logit, which needs the largest score; turn it off": (
            config.log_max_attention_logit
        ),
        "multi_latent_attention; use grouped queries": config.multi_latent_attention,
    }
    for what, is_asked in refusals.items():
        if is_asked:
            raise BackendError(f"chunked attention does not support {what}")


def _refuse_call(
    attention_mask: torch.Tensor | None,
    attn_mask_type: AttnMaskType | None,
    attention_bias: torch.Tensor | None,
) -> None:
    """Raise BackendError for an argument that would otherwise be ignored."""
    if attention_mask is not None:
        raise BackendError(
            f"chunked attention got an attention mask of shape {list(attention_mask.shape)}; it "
            "is causal by position: pass None, and document_starts for packed documents"
        )
    if attn_mask_type not in (None, AttnMaskType.causal):
        raise BackendError(
            f"chunked attention got mask type {attn_mask_type.name!r}; it computes causal attention only"
        )
    if attention_bias is not None:
        raise BackendError("chunked attention has no attention bias; pass None")
