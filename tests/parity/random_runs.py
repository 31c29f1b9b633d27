"""Draws runs at random: a model and the ways it may be trained, all of which must agree."""

from __future__ import annotations

from random import Random

SEQ_LENGTH = 48
LAYERS = 8
HEADS = 4
EXPERTS = "--num-experts 4 --moe-ffn-hidden-size 24 --disable-bias-linear --moe-aux-loss-coeff 0.1"
PER_TOKEN = "--calculate-per-token-loss"


def draw_model(random: Random) -> str:
    """Flags of the model and of what its loss is: the same for the reference and for the run.

    The size of a microbatch is among them: where tokens are masked, as in Megatron, every microbatch
    weighs the same, however many of its tokens count.
    """
    groups = random.choice(
        ["", *(f"--group-query-attention --num-query-groups {groups}" for groups in (1, 2, 4))],
    )
    optional = [
        "--add-qkv-bias",
        "--apply-layernorm-1p",
        "--softmax-scale 0.5",
        # Processes that share a group of queries cannot share its gates.
        "" if groups.endswith((" 1", " 2")) else "--attention-output-gate",
        "--untie-embeddings-and-output-weights",
        "--reset-position-ids",
        "--reset-attention-mask",
        "--eod-mask-loss",
        f"--kv-channels {random.choice([6, 10, 24])}",
        _draw_window(random),
    ]
    feed_forward = random.choice(["", PER_TOKEN, "--disable-bias-linear", EXPERTS])
    return " ".join(
        [
            f"--num-layers {LAYERS} --hidden-size 32 --num-attention-heads {HEADS} --vocab-size 61",
            f"--seq-length {SEQ_LENGTH} --global-batch-size {random.choice([8, 16])}",
            f"--micro-batch-size {random.choice([1, 2])}",
            f"--normalization {random.choice(['LayerNorm', 'RMSNorm'])}",
            # No clamped gates: float32's rounding crosses the kink of a clamp now and then.
            random.choice(["", "--swiglu", "--quick-geglu", "--squared-relu"]),
            random.choice(["", "--qk-layernorm", "--qk-l2-norm"]),
            f"--position-embedding-type {random.choice(['rope', 'learned_absolute', 'none'])}",
            random.choice(["", "--rotary-interleaved --use-rope-scaling", "--no-rope-freq 2"]),
            groups,
            feed_forward,
            *[flag for flag in optional if random.random() < 0.4],
        ]
    )


def _draw_window(random: Random) -> str:
    """A window of every layer, or of all but every other or third."""
    skip = random.choice(["", "--window-attn-skip-freq 2", "--window-attn-skip-freq 3"])
    return f"--window-size {random.randrange(SEQ_LENGTH)},0 {skip}"


def draw_run(random: Random, model: str) -> str:
    """Flags of how four processes train it: layout, schedule, chunks, recomputation, reduction."""
    has_experts = EXPERTS in model
    tensor, stages = random.choice([(1, 4), (1, 2), (2, 2), (1, 1), (2, 1), (4, 1)])
    schedule = random.choice(["seq1f1b", "seq1f1b-interleaved", "seq1f1b-zb"])
    chunks = random.choice([1, 2, 3, 4, 7])
    flags = [
        f"--tensor-model-parallel-size {tensor} --pipeline-model-parallel-size {stages}",
        f"--pipe-sp-splits {chunks}",
    ]
    if tensor > 1 and (has_experts or random.random() < 0.7):
        flags.append("--sequence-parallel")
    if chunks in (2, 3, 4) and random.random() < 0.3:
        flags.append("--pipe-sp-strategy average")
    if schedule == "seq1f1b-interleaved" and stages > 1:
        flags.append("--num-virtual-stages-per-pipeline-rank 2")
    elif stages > 1 and random.random() < 0.3:
        first, last = (3, 5) if stages == 2 else (3, 1)
        flags.append(f"--decoder-first-pipeline-num-layers {first} --decoder-last-pipeline-num-layers {last}")
    flags.append(f"--pipeline-schedule {schedule if stages > 1 else 'seq1f1b'}")
    flags.append(_draw_recomputation(random, has_experts=has_experts))
    if has_experts and tensor * stages < 4 and random.random() < 0.5:
        flags.append("--expert-model-parallel-size 2 --moe-token-dispatcher-type alltoall")
    if random.random() < 0.3:
        flags.append(f"--cross-entropy-slice-tokens {random.choice([5, 16])}")
    if random.random() < 0.4:
        flags.append("--use-distributed-optimizer")
    if random.random() < 0.3:
        flags.append("--overlap-grad-reduce")
    return " ".join(flag for flag in flags if flag)


def _draw_recomputation(random: Random, *, has_experts: bool) -> str:
    selective = "--recompute-granularity selective --recompute-modules"
    mlp = "moe" if has_experts else "mlp"
    return random.choice(
        [
            "",
            "--recompute-granularity full --recompute-method uniform --recompute-num-layers 1",
            "--recompute-granularity full --recompute-method block --recompute-num-layers 1",
            "--recompute-granularity selective",
            f"{selective} core_attn {mlp}",
            f"{selective} layernorm",
            f"{selective} core_attn {mlp} layernorm",
        ]
    )
