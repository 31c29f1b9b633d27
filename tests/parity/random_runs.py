"""Draws runs at random: a model and the ways it may be trained, all of which must agree."""

from __future__ import annotations

from random import Random

SEQ_LENGTH = 48
LAYERS = 8
HEADS = 4


def draw_model(random: Random) -> str:
    """Flags of the model and of what its loss is: the same for the reference and for the run.

    The size of a microbatch is among them: where tokens are masked, as in Megatron, every microbatch
    weighs the same, however many of its tokens count.
    """
    groups = random.choice(
        ["", *(f"--group-query-attention --num-query-groups {groups}" for groups in (1, 2, 4))],
    )
    optional = [
        "--disable-bias-linear",
        "--add-qkv-bias",
        "--apply-layernorm-1p",
        "--softmax-scale 0.5",
        # Processes that share a group of queries cannot share its gates.
        "" if groups.endswith((" 1", " 2")) else "--attention-output-gate",
        "--untie-embeddings-and-output-weights",
        "--reset-position-ids",
        "--reset-attention-mask",
        "--eod-mask-loss",
        f"--window-size {random.randrange(1, SEQ_LENGTH)},0",
    ]
    return " ".join(
        [
            f"--num-layers {LAYERS} --hidden-size 32 --num-attention-heads {HEADS} --vocab-size 61",
            f"--seq-length {SEQ_LENGTH} --global-batch-size {random.choice([8, 16])}",
            f"--micro-batch-size {random.choice([1, 2])}",
            f"--normalization {random.choice(['LayerNorm', 'RMSNorm'])}",
            random.choice(
                ["", "--swiglu", "--quick-geglu --activation-func-clamp-value 1", "--squared-relu"]
            ),
            random.choice(["", "--qk-layernorm", "--qk-l2-norm"]),
            f"--position-embedding-type {random.choice(['rope', 'learned_absolute', 'none'])}",
            random.choice(["", "--rotary-interleaved --use-rope-scaling", "--no-rope-freq 2"]),
            groups,
            *[flag for flag in optional if random.random() < 0.4],
        ]
    )


def draw_run(random: Random) -> str:
    """Flags of how four processes train it: layout, schedule, chunks, recomputation, reduction."""
    tensor, stages = random.choice([(1, 4), (1, 2), (2, 2), (1, 1), (2, 1), (4, 1)])
    schedule = random.choice(["seq1f1b", "seq1f1b-interleaved", "seq1f1b-zb"])
    chunks = random.choice([1, 2, 3, 4, 7])
    flags = [
        f"--tensor-model-parallel-size {tensor} --pipeline-model-parallel-size {stages}",
        f"--pipe-sp-splits {chunks}",
    ]
    if tensor > 1 and random.random() < 0.7:
        flags.append("--sequence-parallel")
    if chunks in (2, 3, 4) and random.random() < 0.3:
        flags.append("--pipe-sp-strategy average")
    if schedule == "seq1f1b-interleaved" and stages > 1:
        flags.append("--num-virtual-stages-per-pipeline-rank 2")
    elif stages > 1 and random.random() < 0.3:
        first, last = (3, 5) if stages == 2 else (3, 1)
        flags.append(f"--decoder-first-pipeline-num-layers {first} --decoder-last-pipeline-num-layers {last}")
    flags.append(f"--pipeline-schedule {schedule if stages > 1 else 'seq1f1b'}")
    if schedule != "seq1f1b-zb":
        flags.append(
            random.choice(
                [
                    "",
                    "--recompute-granularity full --recompute-method uniform --recompute-num-layers 1",
                    "--recompute-granularity full --recompute-method block --recompute-num-layers 1",
                    "--recompute-granularity selective",
                    "--recompute-granularity selective --recompute-modules core_attn mlp",
                ]
            )
        )
    if random.random() < 0.4:
        flags.append("--use-distributed-optimizer")
    if random.random() < 0.3:
        flags.append("--overlap-grad-reduce")
    return " ".join(flag for flag in flags if flag)
