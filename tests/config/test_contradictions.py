"""Flags that contradict each other: refused with both, their numbers, and what to change."""

from __future__ import annotations

import pytest

from megatron.seq1f1b.config import parse_arguments, validate
from megatron.seq1f1b.errors import ConfigurationError
from tests.config.flags import words

SHARDED = "--use-distributed-optimizer"
ONE_GROUP = "--group-query-attention --num-query-groups 1"
FULL = "--recompute-granularity full"


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("--bf16 --fp16", "--bf16 and --fp16 are two precisions; give one of them"),
        ("--loss-scale 128", "--loss-scale 128 means nothing without --fp16"),
        ("--loss-scale 128 --bf16", "--loss-scale 128 means nothing without --fp16"),
        ("--fp16 --min-loss-scale 4 --initial-loss-scale 2", "--min-loss-scale 4 is more than"),
        ("--train-samples 16", "give one of --train-iters and --train-samples; both are given"),
        ("--overlap-param-gather", "needs --use-distributed-optimizer and --overlap-grad-reduce"),
        (f"--overlap-param-gather {SHARDED}", "and --overlap-grad-reduce; give both"),
        ("--ddp-bucket-size 1000", "--ddp-bucket-size 1000 means nothing without --overlap-grad-reduce"),
        ("--ddp-pad-buckets-for-high-nccl-busbw", "means nothing without --use-distributed-optimizer"),
        ("--ddp-num-buckets 2", "--ddp-num-buckets 2 means nothing without --overlap-grad-reduce"),
        ("--overlap-grad-reduce --ddp-num-buckets 2 --ddp-bucket-size 9", "say the same thing twice"),
        ("--grad-reduce-in-bf16", "--grad-reduce-in-bf16 needs --bf16"),
        ("--ddp-average-in-collective --calculate-per-token-loss", "one over tokens; leave one out"),
        (f"--ddp-reduce-scatter-with-fp32-accumulation {SHARDED}", "needs --grad-reduce-in-bf16 and"),
        (f"--optimizer sgd {SHARDED}", "shards Adam's states, and --optimizer sgd has none of them"),
        ("--optimizer muon", "--optimizer muon is not served here: it needs NVIDIA's package"),
        ("--moe-router-load-balancing-type=sinkhorn", "looks at all tokens of a forward"),
        ("--moe-latent-size 8", "its projections are Transformer Engine's"),
        ("--moe-input-jitter-eps 0.1", "its noise would depend on the chunks"),
        ("--use-muon", "needs NVIDIA's package emerging_optimizers"),
        ("--use-precision-aware-optimizer", "needs the Adam of Transformer Engine 2.1"),
        ("--decoupled-min-lr 1e-4", "where --decoupled-lr ends, which is not given"),
        ("--decoupled-lr 1e-4 --min-lr 5e-4", "--min-lr 0.0005 is more than --decoupled-lr 0.0001"),
        ("--weight-decay-incr-style linear", "needs --start-weight-decay or --end-weight-decay"),
        ("--recompute-method uniform", "give --recompute-granularity full with them"),
        ("--recompute-modules mlp", "needs --recompute-granularity selective"),
        (f"{FULL} --recompute-num-layers 5", "5 is more than the 4 layers of a virtual stage"),
        (f"{FULL} --recompute-num-layers 3", "3 does not divide the layers of every virtual stage (4)"),
        ("--window-attn-skip-freq 2", "needs --window-size"),
        ("--position-embedding-type rope --kv-channels 3", "1 of heads of 3 are 3; use an even number"),
        ("--position-embedding-type rope --rotary-percent 0.1", "0.1 of heads of 8 are 0; use an even"),
        ("--rope-scaling-factor 4", "--rope-scaling-factor 4 means nothing without --use-rope-scaling"),
        ("--no-rope-freq 3", "--no-rope-freq 3 does not divide --num-layers 8; change one of them"),
        ("--swiglu --squared-relu", "--squared-relu and --swiglu are two activations; give one of them"),
        ("--glu-linear-offset 1", "--glu-linear-offset 1 needs a gate; give --swiglu or --quick-geglu"),
        ("--activation-func-clamp-value 7 --squared-relu", "--activation-func-clamp-value 7.0 needs a gate"),
        ("--qk-layernorm --qk-l2-norm", "--qk-layernorm and --qk-l2-norm are two norms; give one of them"),
        (
            f"--attention-output-gate {ONE_GROUP} --tensor-model-parallel-size 2",
            "--attention-output-gate needs a group of queries for each process, but --num-query-groups 1 is",
        ),
        ("--embedding-init-method-std 0.1 --init-method-xavier-uniform", "draws embeddings, too; leave"),
        ("--softmax-scale 0", "--softmax-scale 0.0 must be more than 0"),
        ("--window-size 4,4", "causal attention sees no later keys; use --window-size 4,0"),
        ("--lr-warmup-init 1", "--lr-warmup-init 1 is more than --lr 0.001"),
        ("--log-interval 0", "--log-interval 0 must be at least 1"),
        ("--lr inf", "must be a finite number"),
    ],
)
def test_refusals(extra: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        validate(parse_arguments(words(extra)), world_size=4)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "extra",
    [
        "--bf16 --initial-loss-scale 65536",  # launch lines of the method's original code have both
        f"{SHARDED} --overlap-grad-reduce --overlap-param-gather --ddp-bucket-size 1000",
        "--fp16 --loss-scale 128",
        f"--bf16 --grad-reduce-in-bf16 {SHARDED} --ddp-reduce-scatter-with-fp32-accumulation",
        "--context-parallel-size 1 --ckpt-format torch_dist --cp-comm-type p2p a2a",
    ],
)
def test_what_goes_together_is_accepted(extra: str) -> None:
    assert validate(parse_arguments(words(extra)), world_size=4).data_parallel_size == 2
