"""Everything a run can be told about before its processes join, checked in that order.

Nothing here imports torch or Megatron-Core, so a refusal takes a moment and hangs nobody.
"""

from __future__ import annotations

from dataclasses import dataclass

from megatron.seq1f1b.chunk import Boundaries
from megatron.seq1f1b.config import Activation, Config, DataOptions, Layout, validate
from megatron.seq1f1b.data import Tokenizer, build_tokenizer, check_data_settings
from megatron.seq1f1b.data.order import DataloaderType
from megatron.seq1f1b.model.flops import Experts, ModelDimensions, partition_costs, window_of
from megatron.seq1f1b.partition import PROFILED, partition
from megatron.seq1f1b.schedule import Plan, with_communication
from megatron.seq1f1b.training.plans import plan_of, read_plan
from megatron.seq1f1b.training.reporting.checks import check_writers
from megatron.seq1f1b.training.samples import check_evaluations, data_settings, sample_counts


@dataclass(frozen=True, kw_only=True)
class Run:
    """A configuration with everything that follows from it."""

    config: Config
    layout: Layout
    tokenizer: Tokenizer
    dimensions: ModelDimensions
    boundaries: Boundaries
    plan_file: Plan | None = None
    """The plan read from `--pipeline-schedule file.csv`."""
    predicted_step_seconds: float | None = None
    """Of forward and backward, where `profiled` measured the stages."""

    def make_plan(self, num_microbatches: int, forward_only: bool) -> Plan:
        """The plan of this run's schedule, with its communication."""
        return with_communication(self.compute_plan(num_microbatches, forward_only))

    def compute_plan(self, num_microbatches: int, forward_only: bool) -> Plan:
        """The plan of this run's schedule, as its maker or its file has it."""
        return plan_of(
            self.plan_file,
            self.config,
            self.layout,
            num_microbatches=num_microbatches,
            forward_only=forward_only,
        )


def prepare(config: Config, *, world_size: int) -> Run:
    """Resolve and check a configuration.

    Raises:
        ConfigurationError: options that cannot run together.
        PlanError: a plan file that cannot run.
        DataError: a tokenizer or dataset that is missing or inconsistent.
    """
    layout = validate(config, world_size=world_size)
    check_writers(config.logging)
    DataloaderType.named(config.data.dataloader_type)
    tokenizer = _tokenizer(config.data)
    counts = sample_counts(config, layout)
    settings = data_settings(config, tokenizer)
    check_evaluations(config)
    check_data_settings(
        settings, train_samples=counts.train, valid_samples=counts.valid, test_samples=counts.test
    )
    dimensions = model_dimensions(config, layout, tokenizer.vocab_size)
    return Run(
        config=config,
        layout=layout,
        tokenizer=tokenizer,
        dimensions=dimensions,
        boundaries=_boundaries(config, dimensions),
        plan_file=read_plan(config, layout),
    )


def _tokenizer(data: DataOptions) -> Tokenizer:
    return build_tokenizer(
        data.tokenizer_type,
        vocab_file=data.vocab_file,
        merge_file=data.merge_file,
        tokenizer_model=data.tokenizer_model,
        vocab_size=data.vocab_size,
    )


def model_dimensions(config: Config, layout: Layout, vocab_size: int) -> ModelDimensions:
    """The widths of the model, its vocabulary padded for tensor parallelism."""
    multiple = config.model.make_vocab_size_divisible_by * config.parallel.tensor_model_parallel_size
    return ModelDimensions(
        num_layers=config.model.num_layers,
        hidden_size=config.model.hidden_size,
        ffn_hidden_size=layout.ffn_hidden_size,
        num_query_heads=config.model.num_attention_heads,
        num_query_groups=layout.num_query_groups,
        head_dim=layout.kv_channels,
        is_gated=layout.activation.is_gated,
        has_output_gate=config.model.attention_output_gate,
        padded_vocab_size=-(-vocab_size // multiple) * multiple,
        experts=_experts(config, layout),
        num_more_mlp_tensors=(layout.activation is Activation.QUICK_GEGLU)
        + (config.model.activation_func_clamp_value is not None),
        window=window_of(
            layout.window_size, config.model.window_attn_skip_freq, num_layers=config.model.num_layers
        ),
    )


def _experts(config: Config, layout: Layout) -> Experts | None:
    options = config.experts
    if options.num_experts is None:
        return None
    return Experts(
        num_experts=options.num_experts,
        topk=options.moe_router_topk,
        ffn_hidden_size=options.moe_ffn_hidden_size or layout.ffn_hidden_size,
        shared_ffn_hidden_size=options.moe_shared_expert_intermediate_size or 0,
        has_shared_gate=options.moe_shared_expert_gate,
        scales_inputs=options.moe_apply_probs_on_input,
    )


def boundary_multiple(config: Config) -> int:
    """What every chunk boundary is a multiple of: where sequences are sharded, the shards."""
    parallel = config.parallel
    return parallel.tensor_model_parallel_size if parallel.sequence_parallel else 1


def _boundaries(config: Config, dimensions: ModelDimensions) -> Boundaries:
    """Chunk boundaries; `profiled` starts from those of even computation until it has measured."""
    strategy = config.schedule.pipe_sp_strategy
    return partition(
        "uniform_comp" if strategy == PROFILED else strategy,
        seq_length=config.training.seq_length,
        chunks=config.schedule.pipe_sp_splits,
        multiple_of=boundary_multiple(config),
        **partition_costs(dimensions),
    )
