"""What the options mean together: derived sizes, and combinations refused with their numbers.

Pure arithmetic on the options and the world size, so it runs before processes join. What needs
files or cost models is checked in the training room.
"""

from __future__ import annotations

from pathlib import Path

from megatron.seq1f1b.config.activation import activation_of
from megatron.seq1f1b.config.batch_sizes import BatchSizes, batch_sizes_of
from megatron.seq1f1b.config.data_parallel import check_data_parallel
from megatron.seq1f1b.config.experts import check_experts
from megatron.seq1f1b.config.layout import UPSTREAM_SCHEDULES, Layout
from megatron.seq1f1b.config.learning_rate import learning_rate_of
from megatron.seq1f1b.config.observing import check_observing
from megatron.seq1f1b.config.options import (
    Config,
    DryRunOptions,
    ModelOptions,
    ParallelOptions,
    TrainingOptions,
)
from megatron.seq1f1b.config.positions import check_positions, max_positions
from megatron.seq1f1b.config.query_groups import check_query_groups
from megatron.seq1f1b.config.ranges import check_ranges
from megatron.seq1f1b.config.recompute import recompute_of
from megatron.seq1f1b.config.stages import layers_of_virtual_stages
from megatron.seq1f1b.config.upstream_schedules import check_upstream_schedule
from megatron.seq1f1b.errors import ConfigurationError
from megatron.seq1f1b.schedule import check_schedule, is_plan_file


def validate(config: Config, *, world_size: int) -> Layout:
    """The layout of a run.

    Raises:
        ConfigurationError: the options cannot run together on so many processes.
    """
    check_ranges(config)
    _check_precision(config)
    _check_dry_run(config.dry_run)
    ffn_hidden_size, kv_channels, num_query_groups = _model_sizes(config.model)
    _check_tensor_parallel(config, ffn_hidden_size)
    check_positions(config, head_dim=kv_channels)
    check_query_groups(config, groups=num_query_groups, head_dim=kv_channels)
    check_data_parallel(config)
    layers = layers_of_virtual_stages(config.model, config.parallel)
    data_parallel_size = _data_parallel_size(config.parallel, world_size)
    batch_sizes = batch_sizes_of(config.training, data_parallel_size=data_parallel_size)
    check_experts(config, data_parallel_size=data_parallel_size)
    num_virtual_stages = len(layers) // config.parallel.pipeline_model_parallel_size
    train_iters = _train_iters(config.training, batch_sizes)
    check_observing(config.run, train_iters=train_iters)
    layout = Layout(
        schedule=_schedule(config, num_virtual_stages),
        world_size=world_size,
        data_parallel_size=data_parallel_size,
        num_virtual_stages=num_virtual_stages,
        layers_of_virtual_stages=layers,
        num_microbatches=batch_sizes.full // config.training.micro_batch_size // data_parallel_size,
        global_batch_size=batch_sizes.full,
        batch_sizes=batch_sizes,
        train_iters=train_iters,
        learning_rate=learning_rate_of(
            config.optimizer,
            train_iters=train_iters,
            train_samples=config.training.train_samples,
            global_batch_size=batch_sizes.full,
        ),
        recompute=recompute_of(config.training, layers_of_virtual_stages=layers),
        window_size=_window_size(config.model),
        ffn_hidden_size=ffn_hidden_size,
        activation=activation_of(config.model),
        kv_channels=kv_channels,
        num_query_groups=num_query_groups,
        max_position_embeddings=max_positions(config),
    )
    _check_schedule(config, layout)
    return layout


def _check_dry_run(options: DryRunOptions) -> None:
    """What says how to rehearse is nothing to a run that trains."""
    given = {
        "--world-size": options.world_size,
        "--format": options.format,
        "--allocator-overhead": options.allocator_overhead,
    }
    for flag, value in given.items():
        if value is not None and not options.dry_run:
            raise ConfigurationError(f"{flag} {value} means nothing without --dry-run; leave it out")


def _check_precision(config: Config) -> None:
    training = config.training
    if training.bf16 and training.fp16:
        raise ConfigurationError("--bf16 and --fp16 are two precisions; give one of them")
    if training.loss_scale is not None and not training.fp16:
        raise ConfigurationError(
            f"--loss-scale {training.loss_scale:g} means nothing without --fp16; leave it out"
        )
    if training.min_loss_scale > training.initial_loss_scale:
        raise ConfigurationError(
            f"--min-loss-scale {training.min_loss_scale:g} is more than --initial-loss-scale "
            f"{training.initial_loss_scale:g}; lower it"
        )


def _model_sizes(model: ModelOptions) -> tuple[int, int, int]:
    """MLP width, head width and query groups."""
    if model.kv_channels is None and model.hidden_size % model.num_attention_heads:
        raise ConfigurationError(
            f"--hidden-size {model.hidden_size} is not divisible by --num-attention-heads "
            f"{model.num_attention_heads}; change one, or give --kv-channels"
        )
    if model.attention_dropout > 0:
        raise ConfigurationError(
            f"--attention-dropout {model.attention_dropout} is more than the attention kernels here "
            "can do; use 0 (--hidden-dropout may be more)"
        )
    if model.init_method_xavier_uniform and model.embedding_init_method_std is not None:
        raise ConfigurationError(
            f"--init-method-xavier-uniform draws embeddings, too; leave --embedding-init-method-std "
            f"{model.embedding_init_method_std:g} out"
        )
    if model.qk_layernorm and model.qk_l2_norm:
        raise ConfigurationError("--qk-layernorm and --qk-l2-norm are two norms; give one of them")
    groups = _num_query_groups(model)
    ffn_hidden_size = model.ffn_hidden_size
    if ffn_hidden_size is None:
        ffn_hidden_size = 4 * model.hidden_size
        if model.swiglu:
            ffn_hidden_size = max(64, int(4 * model.hidden_size * 2 / 3 / 64) * 64)
    kv_channels = model.kv_channels or model.hidden_size // model.num_attention_heads
    return ffn_hidden_size, kv_channels, groups


def _num_query_groups(model: ModelOptions) -> int:
    if model.num_query_groups is not None and not model.group_query_attention:
        raise ConfigurationError(f"--num-query-groups {model.num_query_groups} needs --group-query-attention")
    if model.group_query_attention and model.num_query_groups is None:
        raise ConfigurationError("--group-query-attention needs --num-query-groups")
    groups = model.num_query_groups or model.num_attention_heads
    if model.num_attention_heads % groups:
        raise ConfigurationError(
            f"--num-attention-heads {model.num_attention_heads} is not divisible by "
            f"--num-query-groups {groups}; change one of them"
        )
    return groups


def _check_tensor_parallel(config: Config, ffn_hidden_size: int) -> None:
    tp = config.parallel.tensor_model_parallel_size
    shares = {
        "--num-attention-heads": config.model.num_attention_heads,
        "--ffn-hidden-size": ffn_hidden_size,
    }
    for flag, size in shares.items():
        if size % tp:
            raise ConfigurationError(
                f"{flag} {size} is not divisible by --tensor-model-parallel-size {tp}; change one of them"
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


def _schedule(config: Config, num_virtual_stages: int) -> str:
    """The schedule asked for, or the one that follows from the other options."""
    asked = config.schedule.pipeline_schedule
    if asked is None:
        is_chunked, is_interleaved = config.schedule.pipe_sp_splits > 1, num_virtual_stages > 1
        if is_chunked:
            return "seq1f1b-interleaved" if is_interleaved else "seq1f1b"
        return "interleaved" if is_interleaved else "1f1b"
    if is_plan_file(asked) and not Path(asked).is_file():
        raise ConfigurationError(f"--pipeline-schedule {asked}: there is no such file")
    return asked


def _train_iters(training: TrainingOptions, batch_sizes: BatchSizes) -> int:
    """Steps, from either of the two flags that can say it."""
    iters, samples = training.train_iters, training.train_samples
    if (iters is None) == (samples is None):
        number = "neither is" if iters is None else "both are"
        raise ConfigurationError(f"give one of --train-iters and --train-samples; {number} given")
    if iters is not None:
        return iters
    assert samples is not None
    if samples < batch_sizes.start:
        raise ConfigurationError(
            f"--train-samples {samples} is less than one step of --global-batch-size {batch_sizes.start}"
        )
    return batch_sizes.whole_steps_in(samples)


def _window_size(model: ModelOptions) -> tuple[int, int] | None:
    """L and R of `--window-size L,R`."""
    if model.window_size is None:
        if model.window_attn_skip_freq is not None:
            raise ConfigurationError("--window-attn-skip-freq needs --window-size")
        return None
    words = model.window_size.split(",")
    if len(words) != 2 or not all(word.strip().lstrip("-").isdigit() for word in words):
        raise ConfigurationError(f"--window-size {model.window_size} must be two numbers, as in 4096,0")
    left, right = map(int, words)
    if right not in (0, -1) or left < 0:
        raise ConfigurationError(
            f"--window-size {model.window_size}: causal attention sees no later keys; use "
            f"--window-size {max(left, 1)},0, or leave it out"
        )
    return left, right


def _check_schedule(config: Config, layout: Layout) -> None:
    """Combinations of schedule, chunks, virtual stages and microbatches that cannot run."""
    k, bound = config.schedule.pipe_sp_splits, config.schedule.zero_bubble_max_pending_weight_grads
    if k > config.training.seq_length:
        raise ConfigurationError(
            f"--pipe-sp-splits {k} is more than the {config.training.seq_length} tokens of "
            "--seq-length; every chunk needs a token"
        )
    if layout.uses_plan_file:
        if bound is not None:
            raise ConfigurationError(
                f"--zero-bubble-max-pending-weight-grads {bound} says how to make a plan, but "
                f"--pipeline-schedule {layout.schedule} is one already; leave the bound out"
            )
        if layout.batch_sizes.rampup_samples:
            raise ConfigurationError(
                f"--rampup-batch-size changes the number of microbatches, and {layout.schedule} is a plan "
                "for one number; leave one of them out"
            )
        return
    try:
        for size in layout.batch_sizes.sizes:
            check_schedule(
                layout.schedule,
                stages=config.parallel.pipeline_model_parallel_size,
                microbatches=layout.num_microbatches_of(size),
                chunks=k,
                virtual_stages=layout.num_virtual_stages,
                max_pending_weight_grads=bound,
            )
    except ConfigurationError as error:
        raise ConfigurationError(f"{error} ({_asked(config)})") from None
    if layout.uses_upstream_schedule:
        check_upstream_schedule(config, schedule=layout.schedule)
    if layout.schedule in UPSTREAM_SCHEDULES[1:] and layout.num_virtual_stages == 1:
        raise ConfigurationError(
            f"--pipeline-schedule {layout.schedule} needs virtual stages; give "
            "--num-layers-per-virtual-pipeline-stage, or use 1f1b"
        )


def _asked(config: Config) -> str:
    """The flags behind a schedule's refusal."""
    asked = {
        "--pipeline-schedule": config.schedule.pipeline_schedule,
        "--pipe-sp-splits": config.schedule.pipe_sp_splits,
        "--num-layers-per-virtual-pipeline-stage": config.parallel.num_layers_per_virtual_pipeline_stage,
        "--num-virtual-stages-per-pipeline-rank": config.parallel.num_virtual_stages_per_pipeline_rank,
        "--global-batch-size": config.training.global_batch_size,
        "--rampup-batch-size": " ".join(map(str, config.training.rampup_batch_size or ())) or None,
    }
    return "asked for: " + " ".join(f"{flag} {value}" for flag, value in asked.items() if value is not None)
