"""From a run's options to what the planning room works on."""

from __future__ import annotations

from typing import Protocol

from megatron.seq1f1b.chunk import Boundaries
from megatron.seq1f1b.config import Config, Layout
from megatron.seq1f1b.errors import ConfigurationError
from megatron.seq1f1b.model.flops import ModelDimensions
from megatron.seq1f1b.model.memory import ModelMemory, Recompute
from megatron.seq1f1b.model.update_memory import UpdateMemory
from megatron.seq1f1b.planning.estimate import estimate
from megatron.seq1f1b.planning.memory_report import ALLOCATOR_OVERHEAD, MemoryReport
from megatron.seq1f1b.schedule import Plan


class RunLike(Protocol):
    """What of a prepared run estimate and dry run read."""

    @property
    def config(self) -> Config:
        """The options."""

    @property
    def layout(self) -> Layout:
        """What follows from them and the number of processes."""

    @property
    def dimensions(self) -> ModelDimensions:
        """The model's widths."""

    @property
    def boundaries(self) -> Boundaries:
        """Of the chunks."""

    def make_plan(self, num_microbatches: int, forward_only: bool) -> Plan:
        """The schedule's plan with its communication."""


def is_mixed_precision(config: Config) -> bool:
    """Whether the run computes in a half precision with float32 master weights."""
    return config.training.bf16 or config.training.fp16


def allocator_overhead_of(config: Config) -> float:
    """Reserved over live bytes, as asked or as assumed."""
    asked = config.dry_run.allocator_overhead
    return ALLOCATOR_OVERHEAD if asked is None else asked


def estimate_run(run: RunLike) -> MemoryReport:
    """What every stage of a run will hold, in closed form."""
    return estimate(
        memory_of(run.config, run.layout, run.dimensions),
        run.make_plan(run.layout.num_microbatches, False),
        run.boundaries,
        layers_of_virtual_stages=run.layout.layers_of_virtual_stages,
        micro_batch_size=run.config.training.micro_batch_size,
        allocator_overhead=allocator_overhead_of(run.config),
    )


def update_memory_of(config: Config) -> UpdateMemory:
    """What gradients and the optimizer of a run hold of every parameter."""
    optimizer = config.optimizer
    moments = {"adam": 2, "sgd": 1 if optimizer.sgd_momentum else 0}
    return UpdateMemory(
        gradient_bytes=2 if config.parallel.grad_reduce_in_bf16 else 4,
        num_moments=moments[optimizer.optimizer],
    )


def memory_of(config: Config, layout: Layout, dimensions: ModelDimensions) -> ModelMemory:
    """The model on one rank of a run.

    Raises:
        ConfigurationError: recomputation of parts of layers that the closed form does not know.
    """
    model, parallel, recompute = config.model, config.parallel, layout.recompute
    if set(recompute.modules) - {"core_attn"}:
        raise ConfigurationError(
            f"the closed form does not know --recompute-modules {' '.join(recompute.modules)}; "
            "pretrain_gpt.py --dry-run counts it"
        )
    most_layers = max(layout.layers_of_virtual_stages)
    is_block = recompute.method == "block" and (recompute.num_layers or 0) < most_layers
    positions = config.positions
    is_rotary = positions.position_embedding_type == "rope"
    is_learned = positions.position_embedding_type == "learned_absolute"
    return ModelMemory(
        dimensions=dimensions,
        tensor_parallel=parallel.tensor_model_parallel_size,
        is_sequence_parallel=parallel.sequence_parallel,
        is_mixed=is_mixed_precision(config),
        update=update_memory_of(config),
        optimizer_shards=layout.data_parallel_size if parallel.use_distributed_optimizer else 1,
        rotary_dim=int(dimensions.head_dim * positions.rotary_percent) if is_rotary else 0,
        rotary_share=1 - 1 / positions.no_rope_freq if positions.no_rope_freq else 1.0,
        num_learned_positions=layout.max_position_embeddings if is_learned else 0,
        has_linear_bias=not model.disable_bias_linear,
        has_qkv_bias=not model.disable_bias_linear or model.add_qkv_bias,
        has_norm_bias=model.normalization == "LayerNorm",
        has_wide_norms=model.apply_layernorm_1p,
        has_qk_norm=model.qk_layernorm or model.qk_l2_norm,
        has_qk_norm_weights=model.qk_layernorm,
        is_output_tied=not model.untie_embeddings_and_output_weights,
        has_dropout=model.hidden_dropout > 0,
        recompute=Recompute(recompute.granularity or Recompute.NONE),
        num_recomputed=recompute.num_layers if is_block else None,
        recomputed_together=(recompute.num_layers or 1) if recompute.method == "uniform" else 1,
        cross_entropy_slice_tokens=config.training.cross_entropy_slice_tokens,
        expert_parallel=config.experts.expert_model_parallel_size,
        gathers_tokens=config.experts.moe_token_dispatcher_type == "allgather",
        has_load_balancing=config.experts.moe_aux_loss_coeff > 0,
    )
