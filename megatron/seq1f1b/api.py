"""Seq1F1B inside a training script on Megatron-Core: two lines, the rest stays as it is.

    spec = chunked_layer_spec(spec)                                   # before the model is built
    forward_backward_func = seq1f1b_forward_backward(chunks=4)        # instead of Megatron-Core's

The script's forward step, data iterator, loss function, data-parallel wrapper, optimizer and
checkpoints do not change. Batches are cut into chunks for it; `packed_seq_params`, which carries
the chunk, is added to the model's arguments on the way in.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.transformer.transformer_config import TransformerConfig

from megatron.seq1f1b.attention import ChunkedCoreAttention
from megatron.seq1f1b.chunk import Boundaries, Chunk
from megatron.seq1f1b.errors import ConfigurationError
from megatron.seq1f1b.model.flops import ModelDimensions, partition_costs
from megatron.seq1f1b.model.prefix_states import KVCachePool
from megatron.seq1f1b.model.rotary import ChunkRotaryEmbedding
from megatron.seq1f1b.partition import partition
from megatron.seq1f1b.runtime.chunked_schedule import ChunkedSchedule
from megatron.seq1f1b.runtime.microbatches import BatchFormat, loss_mask_of_dictionary
from megatron.seq1f1b.schedule import Plan, add_communication, make_plan
from megatron.seq1f1b.upstream import check_megatron_core
from megatron.seq1f1b.upstream.step import get_attr_wrapped_model, get_model_config

LayerSpec = Any
"""Megatron-Core's `ModuleSpec` of a layer, or `TransformerBlockSubmodules`."""


def chunked_layer_spec(spec: LayerSpec) -> LayerSpec:
    """A copy of a GPT's layer or block spec with the chunked core attention in every layer.

    Raises:
        ConfigurationError: a layer without self-attention, or with one whose core is not replaceable.
    """
    chunked = copy.deepcopy(spec)
    layers = chunked.layer_specs if isinstance(chunked, TransformerBlockSubmodules) else [chunked]
    for layer in layers:
        attention = getattr(getattr(layer.submodules, "self_attention", None), "submodules", None)
        if attention is None or not hasattr(attention, "core_attention"):
            raise ConfigurationError(
                f"a layer of {layer.module.__name__} has no self-attention with a core attention to "
                "replace; chunked schedules need one in every layer"
            )
        attention.core_attention = ChunkedCoreAttention
    return chunked


def seq1f1b_forward_backward(
    *,
    chunks: int,
    schedule: str = "seq1f1b",
    strategy: str = "uniform_comp",
    boundaries: Boundaries | None = None,
    loss_mask_of: Callable[[Any], torch.Tensor | None] = loss_mask_of_dictionary,
) -> ForwardBackward:
    """A stand-in for what Megatron-Core's `get_forward_backward_func()` returns.

    Args:
        chunks: k, how many chunks each sequence is cut into.
        schedule: `seq1f1b`, `seq1f1b-interleaved` (with virtual stages) or `seq1f1b-zb`.
        strategy: `uniform_comp` or `average`; how the sequence is cut.
        boundaries: where to cut it, instead of a strategy.
        loss_mask_of: finds the loss mask, `[batch, sequence]`, in a batch that is no dictionary
            with a `loss_mask`.

    Batches may be dictionaries, tuples or lists; every tensor in them of shape
    `[batch, sequence, ...]` is cut. An attention mask `[..., sequence, sequence]` must be the causal
    one. The loss function returns (loss sum, number of tokens, log); one that returns (mean, log)
    is served where every token counts.

    Raises:
        ConfigurationError: this Megatron-Core is not supported.
    """
    check_megatron_core()
    return ForwardBackward(chunks, schedule, strategy, boundaries, loss_mask_of)


class ForwardBackward:
    """Keyword-compatible with Megatron-Core's schedule functions; resolved at the first call."""

    def __init__(
        self,
        num_chunks: int,
        schedule: str,
        strategy: str,
        boundaries: Boundaries | None,
        loss_mask_of: Callable[[Any], torch.Tensor | None],
    ) -> None:
        self._num_chunks = num_chunks
        self._schedule = schedule
        self._strategy = strategy
        self._boundaries = boundaries
        self._batch_format = BatchFormat(
            slice_batch=slice_any, loss_mask_of=loss_mask_of, deliver=self._deliver
        )
        self._params: dict[int, object] = {}
        self._functions: dict[int, ChunkedSchedule] = {}

    def __call__(self, *, model: Any, seq_length: int, **keywords: Any) -> list[dict[str, torch.Tensor]]:
        """One step; see Megatron-Core's `get_forward_backward_func` for the arguments.

        Raises:
            ConfigurationError: what chunked schedules do not serve, by name.
            StepError: a neighbouring stage did not answer.
        """
        parts = list(model) if isinstance(model, list) else [model]
        handles = [self._prepare(part) for part in parts]
        try:
            function = self._function(seq_length, parts)
            return function(model=model, seq_length=seq_length, **keywords)
        finally:
            for handle in handles:
                handle.remove()

    def _function(self, seq_length: int, parts: list[torch.nn.Module]) -> ChunkedSchedule:
        """The schedule for one sequence length; made once."""
        if seq_length not in self._functions:
            config = get_model_config(parts[0])
            boundaries = self._boundaries or self._cut(seq_length, config)
            self._functions[seq_length] = ChunkedSchedule(
                make_plan=lambda microbatches, forward_only: self._plan(
                    microbatches, forward_only, len(boundaries) - 1, len(parts)
                ),
                boundaries=boundaries,
                batch_format=self._batch_format,
                make_prefix_states=KVCachePool(),
            )
        return self._functions[seq_length]

    def _plan(self, microbatches: int, forward_only: bool, chunks: int, virtual_stages: int) -> Plan:
        plan = make_plan(
            self._schedule,
            stages=parallel_state.get_pipeline_model_parallel_world_size(),
            microbatches=microbatches,
            chunks=chunks,
            virtual_stages=virtual_stages,
            forward_only=forward_only,
        )
        return plan if plan.num_stages == 1 else add_communication(plan)

    def _cut(self, seq_length: int, config: TransformerConfig) -> Boundaries:
        linear_cost, attention_cost = partition_costs(_dimensions(config))
        return partition(
            self._strategy,
            seq_length=seq_length,
            chunks=self._num_chunks,
            multiple_of=config.tensor_model_parallel_size if config.sequence_parallel else 1,
            linear_cost=linear_cost,
            attention_cost=attention_cost,
        )

    def _prepare(self, part: torch.nn.Module) -> torch.utils.hooks.RemovableHandle:
        """Make the part's rotary table know chunks, and add the chunk to the model's arguments."""
        model = get_attr_wrapped_model(part, "decoder", return_model_obj=True)
        rotary = getattr(model, "rotary_pos_emb", None)
        if type(rotary) is RotaryEmbedding:
            rotary.__class__ = ChunkRotaryEmbedding  # it adds behaviour, no state
        elif rotary is not None and not isinstance(rotary, ChunkRotaryEmbedding):
            raise ConfigurationError(
                f"chunked schedules do not know the positions of {type(rotary).__name__}; use "
                "position_embedding_type 'rope' or 'learned_absolute'"
            )

        signature = inspect.signature(model.forward)

        def add_params(
            module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            given = signature.bind(*args, **kwargs).arguments
            params = self._params[id(part)]
            _check_causal(given.get("attention_mask"), params)
            return (), {**given, "attention_mask": None, "packed_seq_params": params}

        return model.register_forward_pre_hook(add_params, with_kwargs=True)

    def _deliver(self, batch: Any, part: torch.nn.Module, params: object) -> Any:
        """The chunk's parameters wait for the forward that follows; the batch is the user's own."""
        self._params[id(part)] = params
        return batch


def slice_any(batch: Any, chunk: Chunk) -> Any:
    """The chunk's columns of every tensor in a dictionary, tuple or list; the rest as it is."""
    if isinstance(batch, dict):
        return {name: slice_any(value, chunk) for name, value in batch.items()}
    if isinstance(batch, list | tuple):
        return type(batch)(slice_any(value, chunk) for value in batch)
    if not isinstance(batch, torch.Tensor) or batch.dim() < 2:
        return batch
    if batch.dim() >= 3 and batch.shape[-1] == batch.shape[-2]:
        return batch[..., chunk.start : chunk.stop, : chunk.stop]
    return batch[:, chunk.start : chunk.stop].contiguous()


def _check_causal(mask: torch.Tensor | None, params: Any) -> None:
    """Refuse a mask (True where masked) that hides anything but later keys.

    Raises:
        ConfigurationError: chunked attention is causal by position and cannot apply it.
    """
    if mask is None:
        return
    chunk: Chunk = params.chunk
    queries = torch.arange(chunk.start, chunk.stop, device=mask.device)
    causal = torch.arange(chunk.stop, device=mask.device) > queries[:, None]
    if mask.shape[-2:] != causal.shape or not bool((mask.bool() == causal).all()):
        raise ConfigurationError(
            f"the batch has an attention mask of shape {list(mask.shape)} that is not the causal one; "
            "chunked attention knows causality by position and takes no other mask: leave it out"
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
        padded_vocab_size=0,
    )
