"""Everything a run can be told about before its processes join, checked in that order.

Nothing here imports torch or Megatron-Core, so a refusal takes a moment and hangs nobody.
"""

from __future__ import annotations

from dataclasses import dataclass

from megatron.seq1f1b.chunk import Boundaries
from megatron.seq1f1b.config import Config, Layout, validate
from megatron.seq1f1b.data import Tokenizer, build_tokenizer, check_data_files, parse_blend
from megatron.seq1f1b.errors import ConfigurationError
from megatron.seq1f1b.model.flops import ModelDimensions, partition_costs
from megatron.seq1f1b.partition import partition
from megatron.seq1f1b.schedule import Plan, add_communication, make_plan


@dataclass(frozen=True, kw_only=True)
class Run:
    """A configuration with everything that follows from it."""

    config: Config
    layout: Layout
    tokenizer: Tokenizer
    dimensions: ModelDimensions
    boundaries: Boundaries

    def make_plan(self, num_microbatches: int, forward_only: bool) -> Plan:
        """The plan of this run's schedule, with its communication."""
        plan = make_plan(
            self.layout.schedule,
            stages=self.config.parallel.pipeline_model_parallel_size,
            microbatches=num_microbatches,
            chunks=self.config.schedule.pipe_sp_splits,
            virtual_stages=self.layout.num_virtual_stages,
            forward_only=forward_only,
        )
        return add_communication(plan) if plan.num_stages > 1 else plan


def prepare(config: Config, *, world_size: int) -> Run:
    """Resolve and check a configuration.

    Raises:
        ConfigurationError: options that cannot run together.
        DataError: a tokenizer or dataset that is missing or inconsistent.
    """
    layout = validate(config, world_size=world_size)
    data = config.data
    if not data.mock_data and not data.data_path:
        raise ConfigurationError("there is nothing to train on; give --data-path or --mock-data")
    if data.mock_data and data.data_path:
        raise ConfigurationError("--mock-data and --data-path are two sources; give one of them")
    tokenizer = build_tokenizer(
        data.tokenizer_type,
        vocab_file=data.vocab_file,
        merge_file=data.merge_file,
        tokenizer_model=data.tokenizer_model,
        vocab_size=data.vocab_size,
    )
    if data.data_path:
        check_data_files(parse_blend(data.data_path).prefixes, tokenizer.vocab_size)
    dimensions = model_dimensions(config, layout, tokenizer.vocab_size)
    run = Run(
        config=config,
        layout=layout,
        tokenizer=tokenizer,
        dimensions=dimensions,
        boundaries=_boundaries(config, dimensions),
    )
    if not layout.uses_upstream_schedule:
        run.make_plan(layout.num_microbatches, False)
    return run


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
        is_gated=config.model.swiglu,
        padded_vocab_size=-(-vocab_size // multiple) * multiple,
    )


def _boundaries(config: Config, dimensions: ModelDimensions) -> Boundaries:
    """Chunk boundaries; multiples of the tensor parallelism where sequences are sharded by it."""
    linear_cost, attention_cost = partition_costs(dimensions)
    parallel = config.parallel
    return partition(
        config.schedule.pipe_sp_strategy,
        seq_length=config.training.seq_length,
        chunks=config.schedule.pipe_sp_splits,
        multiple_of=parallel.tensor_model_parallel_size if parallel.sequence_parallel else 1,
        linear_cost=linear_cost,
        attention_cost=attention_cost,
    )
