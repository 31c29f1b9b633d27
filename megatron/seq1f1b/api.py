"""Seq1F1B inside a training script on Megatron-Core: two lines, the rest stays as it is.

    spec = chunked_layer_spec(spec)                                   # before the model is built
    forward_backward_func = seq1f1b_forward_backward(chunks=4)        # instead of Megatron-Core's

The script's forward step, data iterator, loss function, data-parallel wrapper, optimizer and
checkpoints do not change. The forward step runs once for every chunk, on its whole microbatch: where
it calls the model, what it gives is cut to the chunk, and `packed_seq_params`, which carries the
chunk, is added. The loss function is called once, on the outputs of all chunks together, so the
loss is that of the whole sequence whatever it masks or means.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.transformer.transformer_config import TransformerConfig

from megatron.seq1f1b.attention import ChunkedCoreAttention
from megatron.seq1f1b.chunk import Boundaries
from megatron.seq1f1b.errors import ConfigurationError
from megatron.seq1f1b.model.flops import Experts, ModelDimensions, partition_costs, window_of
from megatron.seq1f1b.model.prefix_states import KVCachePool
from megatron.seq1f1b.model.rotary import ChunkRotaryEmbedding
from megatron.seq1f1b.partition import PARTITION_STRATEGIES, partition
from megatron.seq1f1b.runtime.chunked_schedule import ChunkedSchedule, Connections
from megatron.seq1f1b.schedule import Plan, make_plan, with_communication
from megatron.seq1f1b.upstream import check_megatron_core
from megatron.seq1f1b.upstream.parallel import groups_of_step
from megatron.seq1f1b.upstream.step import get_attr_wrapped_model, get_model_config

LayerSpec = Any
"""Megatron-Core's `ModuleSpec` of a layer, or `TransformerBlockSubmodules`."""


def chunked_layer_spec(spec: LayerSpec) -> LayerSpec:
    """A copy of a GPT's layer or block spec with the chunked core attention in every layer.

    Raises:
        ConfigurationError: a layer without self-attention, with one whose core is not replaceable, or
            with cross-attention.
    """
    chunked = copy.deepcopy(spec)
    layers = chunked.layer_specs if isinstance(chunked, TransformerBlockSubmodules) else [chunked]
    for layer in layers:
        _refuse_cross_attention(layer)
        attention = getattr(getattr(layer.submodules, "self_attention", None), "submodules", None)
        if attention is None or not hasattr(attention, "core_attention"):
            raise ConfigurationError(
                f"a layer of {layer.module.__name__} has no self-attention with a core attention to "
                "replace; chunked schedules need one in every layer"
            )
        attention.core_attention = ChunkedCoreAttention
    return chunked


def _refuse_cross_attention(layer: Any) -> None:
    cross = getattr(layer.submodules, "cross_attention", IdentityOp)
    if cross is not IdentityOp:
        raise ConfigurationError(
            f"a layer of {layer.module.__name__} has cross-attention, whose keys are another sequence's; "
            "chunked schedules serve decoders of self-attention alone"
        )


def seq1f1b_forward_backward(
    *,
    chunks: int,
    schedule: str = "seq1f1b",
    strategy: str = "uniform_comp",
    boundaries: Boundaries | None = None,
) -> ForwardBackward:
    """A stand-in for what Megatron-Core's `get_forward_backward_func()` returns.

    Args:
        chunks: k, how many chunks each sequence is cut into.
        schedule: `seq1f1b`, `seq1f1b-interleaved` (with virtual stages) or `seq1f1b-zb`.
        strategy: `uniform_comp` or `average`; how the sequence is cut.
        boundaries: where to cut it, instead of a strategy: k+1 positions, 0 first, `seq_length` last.

    The model's tensors `[batch, sequence, ...]` are cut; an attention mask
    `[..., sequence, sequence]` must be the causal one; packed documents come as Megatron-Core's
    `PackedSeqParams` with `cu_seqlens`.

    Raises:
        ConfigurationError: this Megatron-Core is not supported, there is no chunk or no such strategy, or
            the boundaries are not k+1.
    """
    check_megatron_core()
    if not isinstance(chunks, int) or chunks < 1:
        raise ConfigurationError(f"chunks {chunks!r} must be a whole number; 1 leaves sequences whole")
    if strategy not in PARTITION_STRATEGIES:
        raise ConfigurationError(
            f"strategy {strategy!r} does not exist here; use one of {', '.join(PARTITION_STRATEGIES)}, or "
            "give boundaries"
        )
    if boundaries is not None and len(boundaries) != chunks + 1:
        raise ConfigurationError(
            f"boundaries {list(boundaries)} make {len(boundaries) - 1} chunks, but chunks is {chunks}"
        )
    return ForwardBackward(chunks, schedule, strategy, boundaries)


class ForwardBackward:
    """Keyword-compatible with Megatron-Core's schedule functions; resolved at the first call."""

    def __init__(self, num_chunks: int, schedule: str, strategy: str, boundaries: Boundaries | None) -> None:
        self._num_chunks = num_chunks
        self._schedule = schedule
        self._strategy = strategy
        self._boundaries = boundaries
        self._connections = Connections()
        self._pool = KVCachePool()
        self._functions: dict[tuple[int, int, int], ChunkedSchedule] = {}

    def __call__(
        self,
        *,
        model: Any,
        seq_length: int,
        p2p_communicator: object = None,
        pg_collection: object = None,
        **keywords: Any,
    ) -> list[Any]:
        """One step; see Megatron-Core's `get_forward_backward_func` for the arguments.

        Returns:
            On the last stage what the loss function logged, per microbatch; elsewhere nothing.

        Raises:
            ConfigurationError: what chunked schedules do not serve, by name.
            DataError: the data iterator ended.
            StepError: a neighbouring stage did not answer.
        """
        parts = list(model) if isinstance(model, list | tuple) else [model]
        for part in parts:
            _prepare(part)
        stages = groups_of_step(p2p_communicator, pg_collection).pp.size()
        return self._function(seq_length, stages, parts)(
            model=parts,
            seq_length=seq_length,
            p2p_communicator=p2p_communicator,
            pg_collection=pg_collection,
            **keywords,
        )

    def close(self) -> None:
        """Give the channels between stages back; only where another pipeline follows in the process."""
        self._connections.close()

    def _function(self, seq_length: int, stages: int, parts: list[torch.nn.Module]) -> ChunkedSchedule:
        """The schedule for one sequence length; made once."""
        key = (seq_length, stages, len(parts))
        if key not in self._functions:
            boundaries = self._boundaries or self._cut(seq_length, get_model_config(parts[0]))
            self._functions[key] = ChunkedSchedule(
                make_plan=lambda microbatches, forward_only: self._plan(
                    microbatches, forward_only, stages, len(parts)
                ),
                boundaries=boundaries,
                make_prefix_states=self._pool,
                connections=self._connections,
            )
        return self._functions[key]

    def _plan(self, microbatches: int, forward_only: bool, stages: int, virtual_stages: int) -> Plan:
        return with_communication(
            make_plan(
                self._schedule,
                stages=stages,
                microbatches=microbatches,
                chunks=self._num_chunks,
                virtual_stages=virtual_stages,
                forward_only=forward_only,
            )
        )

    def _cut(self, seq_length: int, config: TransformerConfig) -> Boundaries:
        return partition(
            self._strategy,
            seq_length=seq_length,
            chunks=self._num_chunks,
            multiple_of=config.tensor_model_parallel_size if config.sequence_parallel else 1,
            **partition_costs(_dimensions(config)),
        )


def _prepare(part: torch.nn.Module) -> None:
    """Make the part's rotary table know chunks; done again, it changes nothing.

    Raises:
        ConfigurationError: a model whose layers or positions do not know chunks.
    """
    model = get_attr_wrapped_model(part, "decoder", return_model_obj=True)
    for layer in model.decoder.layers:
        core = getattr(getattr(layer, "self_attention", None), "core_attention", None)
        if not isinstance(core, ChunkedCoreAttention):
            raise ConfigurationError(
                f"layer {layer.layer_number} of the model attends with {type(core).__name__}, which knows no "
                "chunks and would attend to each one alone; build the model from chunked_layer_spec(spec)"
            )
    rotary = getattr(model, "rotary_pos_emb", None)
    if type(rotary) is RotaryEmbedding:
        rotary.__class__ = ChunkRotaryEmbedding  # it adds behaviour, no state
    elif rotary is not None and not isinstance(rotary, ChunkRotaryEmbedding):
        raise ConfigurationError(
            f"chunked schedules do not know the positions of {type(rotary).__name__}; use "
            "position_embedding_type 'rope', 'learned_absolute' or 'none'"
        )


def _dimensions(config: TransformerConfig) -> ModelDimensions:
    """What partition needs to know of the user's model."""
    return ModelDimensions(
        num_layers=config.num_layers,
        hidden_size=config.hidden_size,
        ffn_hidden_size=config.ffn_hidden_size,
        num_query_heads=config.num_attention_heads,
        num_query_groups=config.num_query_groups,
        head_dim=config.kv_channels,
        is_gated=config.gated_linear_unit,
        has_output_gate=config.attention_output_gate,
        padded_vocab_size=0,
        experts=_experts(config),
        window=window_of(config.window_size, config.window_attn_skip_freq, num_layers=config.num_layers),
    )


def _experts(config: TransformerConfig) -> Experts | None:
    if config.num_moe_experts is None:
        return None
    return Experts(
        num_experts=config.num_moe_experts,
        topk=config.moe_router_topk,
        ffn_hidden_size=config.moe_ffn_hidden_size,
        shared_ffn_hidden_size=config.moe_shared_expert_intermediate_size or 0,
    )
