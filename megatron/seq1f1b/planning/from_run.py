"""From a run's options to the memory model."""

from __future__ import annotations

from megatron.seq1f1b.config import Config, Layout
from megatron.seq1f1b.model.flops import ModelDimensions
from megatron.seq1f1b.model.memory import ModelMemory, Recompute


def memory_of(config: Config, layout: Layout, dimensions: ModelDimensions) -> ModelMemory:
    """The model on one rank of a run."""
    model, parallel = config.model, config.parallel
    is_rotary = model.position_embedding_type == "rope"
    return ModelMemory(
        dimensions=dimensions,
        tensor_parallel=parallel.tensor_model_parallel_size,
        is_sequence_parallel=parallel.sequence_parallel,
        is_mixed=config.training.bf16,
        optimizer_shards=layout.data_parallel_size if parallel.use_distributed_optimizer else 1,
        rotary_dim=int(dimensions.head_dim * model.rotary_percent) if is_rotary else 0,
        num_learned_positions=0 if is_rotary else layout.max_position_embeddings,
        has_linear_bias=not model.disable_bias_linear,
        has_qkv_bias=not model.disable_bias_linear or model.add_qkv_bias,
        has_norm_bias=model.normalization == "LayerNorm",
        has_qk_norm=model.qk_layernorm,
        is_output_tied=not model.untie_embeddings_and_output_weights,
        recompute=Recompute(config.training.recompute_granularity or Recompute.NONE),
    )
