"""What the options mean together: derived sizes, and combinations refused with their numbers.

Pure arithmetic on the options and the world size, so it runs before processes join. What needs
files or cost models is checked in the training room.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from megatron.seq1f1b.config.options import Config, ModelOptions, ParallelOptions
from megatron.seq1f1b.errors import ConfigurationError
from megatron.seq1f1b.schedule import SCHEDULE_NAMES

UPSTREAM_SCHEDULES = ("1f1b", "interleaved")
"""Schedules that are Megatron-Core's own functions."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Sizes that follow from the options and the world size."""

    schedule: str
    world_size: int
    data_parallel_size: int
    num_virtual_stages: int
    """v, model parts per pipeline rank."""
    num_microbatches: int
    """m, per step and data-parallel rank."""
    global_batch_size: int
    ffn_hidden_size: int
    kv_channels: int
    num_query_groups: int
    max_position_embeddings: int

    @property
    def uses_upstream_schedule(self) -> bool:
        """Whether Megatron-Core's own schedule function runs."""
        return self.schedule in UPSTREAM_SCHEDULES


def validate(config: Config, *, world_size: int) -> Layout:
    """The layout of a run.

    Raises:
        ConfigurationError: the options cannot run together on so many processes.
    """
    _check_counts(config)
    ffn_hidden_size, kv_channels, num_query_groups = _model_sizes(config.model)
    _check_tensor_parallel(config, ffn_hidden_size, num_query_groups)
    num_virtual_stages = _num_virtual_stages(config.model, config.parallel)
    data_parallel_size = _data_parallel_size(config.parallel, world_size)
    global_batch_size, num_microbatches = _batches(config, data_parallel_size)
    schedule = _schedule(config, num_virtual_stages)
    layout = Layout(
        schedule=schedule,
        world_size=world_size,
        data_parallel_size=data_parallel_size,
        num_virtual_stages=num_virtual_stages,
        num_microbatches=num_microbatches,
        global_batch_size=global_batch_size,
        ffn_hidden_size=ffn_hidden_size,
        kv_channels=kv_channels,
        num_query_groups=num_query_groups,
        max_position_embeddings=_max_positions(config),
    )
    _check_schedule(config, layout)
    return layout


def _check_counts(config: Config) -> None:
    """Every count is positive."""
    counts = {
        "--num-layers": config.model.num_layers,
        "--hidden-size": config.model.hidden_size,
        "--num-attention-heads": config.model.num_attention_heads,
        "--seq-length": config.training.seq_length,
        "--micro-batch-size": config.training.micro_batch_size,
        "--train-iters": config.training.train_iters,
        "--log-interval": config.training.log_interval,
        "--tensor-model-parallel-size": config.parallel.tensor_model_parallel_size,
        "--pipeline-model-parallel-size": config.parallel.pipeline_model_parallel_size,
        "--make-vocab-size-divisible-by": config.model.make_vocab_size_divisible_by,
        "--pipe-sp-splits": config.schedule.pipe_sp_splits,
    }
    for flag, value in counts.items():
        if value < 1:
            raise ConfigurationError(f"{flag} {value} must be at least 1")


def _model_sizes(model: ModelOptions) -> tuple[int, int, int]:
    """MLP width, head width and query groups."""
    if model.kv_channels is None and model.hidden_size % model.num_attention_heads:
        raise ConfigurationError(
            f"--hidden-size {model.hidden_size} is not divisible by --num-attention-heads "
            f"{model.num_attention_heads}; change one, or give --kv-channels"
        )
    if model.num_query_groups is not None and not model.group_query_attention:
        raise ConfigurationError(f"--num-query-groups {model.num_query_groups} needs --group-query-attention")
    if model.group_query_attention and model.num_query_groups is None:
        raise ConfigurationError("--group-query-attention needs --num-query-groups")
    groups = model.num_query_groups or model.num_attention_heads
    if groups < 1 or model.num_attention_heads % groups:
        raise ConfigurationError(
            f"--num-attention-heads {model.num_attention_heads} is not divisible by "
            f"--num-query-groups {groups}"
        )
    ffn_hidden_size = model.ffn_hidden_size
    if ffn_hidden_size is None:
        ffn_hidden_size = 4 * model.hidden_size
        if model.swiglu:
            ffn_hidden_size = int(4 * model.hidden_size * 2 / 3 / 64) * 64
    kv_channels = model.kv_channels or model.hidden_size // model.num_attention_heads
    return ffn_hidden_size, kv_channels, groups


def _check_tensor_parallel(config: Config, ffn_hidden_size: int, num_query_groups: int) -> None:
    tp = config.parallel.tensor_model_parallel_size
    shares = {
        f"--num-attention-heads {config.model.num_attention_heads}": (config.model.num_attention_heads),
        f"--ffn-hidden-size {ffn_hidden_size}": ffn_hidden_size,
        f"--num-query-groups {num_query_groups}": num_query_groups,
    }
    for what, size in shares.items():
        if size % tp:
            raise ConfigurationError(
                f"{what} is not divisible by --tensor-model-parallel-size {tp}; change one of them"
            )
    if config.parallel.sequence_parallel and tp == 1:
        raise ConfigurationError(
            "--sequence-parallel shards over tensor-parallel processes, but "
            "--tensor-model-parallel-size is 1; leave it out, or use 2 or more"
        )
    if config.parallel.sequence_parallel and config.training.seq_length % tp:
        raise ConfigurationError(
            f"--seq-length {config.training.seq_length} is not divisible by "
            f"--tensor-model-parallel-size {tp}, which --sequence-parallel needs"
        )


def _num_virtual_stages(model: ModelOptions, parallel: ParallelOptions) -> int:
    """v; the layers must divide over stages and virtual stages."""
    stages, layers = parallel.pipeline_model_parallel_size, model.num_layers
    if layers % stages:
        raise ConfigurationError(
            f"--num-layers {layers} is not divisible by --pipeline-model-parallel-size {stages}; "
            f"use {layers // stages * stages or stages} or {(layers // stages + 1) * stages} layers"
        )
    per_part = parallel.num_layers_per_virtual_pipeline_stage
    if per_part is None:
        return 1
    if per_part < 1 or (layers // stages) % per_part:
        raise ConfigurationError(
            f"--num-layers-per-virtual-pipeline-stage {per_part} does not divide the "
            f"{layers // stages} layers of a stage ({layers} layers over {stages} stages)"
        )
    if stages == 1:
        raise ConfigurationError(
            "--num-layers-per-virtual-pipeline-stage needs --pipeline-model-parallel-size of 2 or "
            "more: one stage has nothing to interleave with"
        )
    return layers // stages // per_part


def _data_parallel_size(parallel: ParallelOptions, world_size: int) -> int:
    tp, pp = parallel.tensor_model_parallel_size, parallel.pipeline_model_parallel_size
    if world_size % (tp * pp):
        raise ConfigurationError(
            f"{world_size} processes cannot hold tensor parallelism {tp} x pipeline parallelism "
            f"{pp} = {tp * pp}; start a multiple of {tp * pp} processes (torchrun "
            f"--nproc_per_node), or change --tensor-model-parallel-size or "
            f"--pipeline-model-parallel-size"
        )
    return world_size // (tp * pp)


def _batches(config: Config, data_parallel_size: int) -> tuple[int, int]:
    """Global batch size and microbatches per step."""
    per_microbatch = config.training.micro_batch_size * data_parallel_size
    global_batch_size = config.training.global_batch_size or per_microbatch
    if global_batch_size < 1 or global_batch_size % per_microbatch:
        raise ConfigurationError(
            f"--global-batch-size {global_batch_size} is not divisible by --micro-batch-size "
            f"{config.training.micro_batch_size} x {data_parallel_size} data-parallel processes = "
            f"{per_microbatch}"
        )
    return global_batch_size, global_batch_size // per_microbatch


def _schedule(config: Config, num_virtual_stages: int) -> str:
    """The schedule asked for, or the one that follows from the other options."""
    asked = config.schedule.pipeline_schedule
    if asked is None:
        is_chunked, is_interleaved = config.schedule.pipe_sp_splits > 1, num_virtual_stages > 1
        if is_chunked:
            return "seq1f1b-interleaved" if is_interleaved else "seq1f1b"
        return "interleaved" if is_interleaved else "1f1b"
    if asked not in SCHEDULE_NAMES and not asked.endswith(".csv"):
        near = difflib.get_close_matches(asked, SCHEDULE_NAMES, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigurationError(
            f"--pipeline-schedule {asked} does not exist; {hint}there are {', '.join(SCHEDULE_NAMES)}"
        )
    if asked.endswith(".csv") and not Path(asked).is_file():
        raise ConfigurationError(f"--pipeline-schedule {asked}: there is no such file")
    return asked


def _max_positions(config: Config) -> int:
    asked = config.model.max_position_embeddings
    if asked is not None and asked < config.training.seq_length:
        raise ConfigurationError(
            f"--max-position-embeddings {asked} is less than --seq-length "
            f"{config.training.seq_length}; use at least the sequence length"
        )
    return asked or config.training.seq_length


def _check_schedule(config: Config, layout: Layout) -> None:
    """Combinations of schedule, chunks, virtual stages and microbatches that cannot run."""
    k, name = config.schedule.pipe_sp_splits, layout.schedule
    stages, virtual = config.parallel.pipeline_model_parallel_size, layout.num_virtual_stages
    if k > config.training.seq_length:
        raise ConfigurationError(
            f"--pipe-sp-splits {k} is more than the {config.training.seq_length} tokens of "
            "--seq-length; every chunk needs a token"
        )
    if name in UPSTREAM_SCHEDULES and k > 1:
        chunked = "seq1f1b" if name == "1f1b" else "seq1f1b-interleaved"
        raise ConfigurationError(
            f"--pipeline-schedule {name} takes whole sequences, but --pipe-sp-splits is {k}; use "
            f"--pipeline-schedule {chunked}, or --pipe-sp-splits 1"
        )
    if name in ("1f1b", "seq1f1b") and virtual > 1:
        interleaved = "interleaved" if name == "1f1b" else "seq1f1b-interleaved"
        raise ConfigurationError(
            f"--pipeline-schedule {name} has one model part per stage, but "
            f"--num-layers-per-virtual-pipeline-stage makes {virtual}; use --pipeline-schedule "
            f"{interleaved}, or leave the virtual stages out"
        )
    if name == "interleaved":
        if virtual < 2:
            raise ConfigurationError(
                "--pipeline-schedule interleaved needs virtual stages; give "
                "--num-layers-per-virtual-pipeline-stage"
            )
        if layout.num_microbatches % stages:
            raise ConfigurationError(
                f"Megatron-Core's interleaved schedule needs a number of microbatches that is a "
                f"multiple of the {stages} stages, but there are {layout.num_microbatches}; change "
                "--global-batch-size, or use --pipeline-schedule seq1f1b-interleaved"
            )
