"""How gradients are reduced over data-parallel processes, and who keeps the optimizer's states."""

from __future__ import annotations

from megatron.seq1f1b.config.options import Config
from megatron.seq1f1b.errors import ConfigurationError


def check_data_parallel(config: Config) -> None:
    """Refuse what Megatron-Core's data parallelism cannot do, or would pass over.

    Raises:
        ConfigurationError: with the flags and what to change.
    """
    for reason, applies in {**_buckets(config), **_reduction(config), **_optimizer(config)}.items():
        if applies:
            raise ConfigurationError(reason)


def _buckets(config: Config) -> dict[str, bool]:
    parallel = config.parallel
    size, number = parallel.ddp_bucket_size, parallel.ddp_num_buckets
    reasons = {
        f"{flag} {value} means nothing without --overlap-grad-reduce: gradients are then reduced all "
        "together; give it, or leave the buckets as they are": (
            value is not None and not parallel.overlap_grad_reduce
        )
        for flag, value in (("--ddp-bucket-size", size), ("--ddp-num-buckets", number))
    }
    return {
        f"--ddp-bucket-size {size} and --ddp-num-buckets {number} say the same thing twice; give one": (
            size is not None and number is not None
        ),
        **reasons,
        "--ddp-pad-buckets-for-high-nccl-busbw means nothing without --use-distributed-optimizer; give it, "
        "or leave the padding out": (
            parallel.ddp_pad_buckets_for_high_nccl_busbw and not parallel.use_distributed_optimizer
        ),
    }


def _reduction(config: Config) -> dict[str, bool]:
    parallel = config.parallel
    in_float32 = parallel.ddp_reduce_scatter_with_fp32_accumulation
    return {
        "--grad-reduce-in-bf16 needs --bf16: gradients of other precisions are not bfloat16": (
            parallel.grad_reduce_in_bf16 and not config.training.bf16
        ),
        "--ddp-average-in-collective takes a mean over processes, and --calculate-per-token-loss one over "
        "tokens; leave one out": (
            parallel.ddp_average_in_collective and config.training.calculate_per_token_loss
        ),
        "--ddp-reduce-scatter-with-fp32-accumulation needs --grad-reduce-in-bf16 and "
        "--use-distributed-optimizer: gradients are sent and summed in float32 without the one, and not "
        "scattered without the other": in_float32
        and not (parallel.grad_reduce_in_bf16 and parallel.use_distributed_optimizer),
        "--ddp-reduce-scatter-with-fp32-accumulation adds up, and --ddp-average-in-collective asks for a "
        "mean; leave one out": in_float32 and parallel.ddp_average_in_collective,
    }


def _optimizer(config: Config) -> dict[str, bool]:
    parallel = config.parallel
    return {
        "--overlap-param-gather needs --use-distributed-optimizer and --overlap-grad-reduce; give both": (
            parallel.overlap_param_gather
            and not (parallel.use_distributed_optimizer and parallel.overlap_grad_reduce)
        ),
        "--use-distributed-optimizer shards Adam's states, and --optimizer sgd has none of them; leave one "
        "out": config.optimizer.optimizer == "sgd" and parallel.use_distributed_optimizer,
    }
