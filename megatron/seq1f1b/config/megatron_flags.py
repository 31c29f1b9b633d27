"""Flags of Megatron-LM that mean nothing here: accepted with a line, or refused with a replacement.

A launch line that worked there should start here, and what it asked for in vain should be said.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from megatron.seq1f1b.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True)
class ForeignFlag:
    """A flag that is accepted and changes nothing; `why` is its help."""

    why: str
    takes_value: bool = False


WITHOUT_EFFECT: dict[str, ForeignFlag] = {
    "--use-flash-attn": ForeignFlag(why="every attention backend here is a flash one"),
    "--use-mcore-models": ForeignFlag(why="every model here is Megatron-Core's"),
    "--timing-log-level": ForeignFlag(why="metrics.jsonl has the times of every step", takes_value=True),
    "--timing-log-option": ForeignFlag(why="metrics.jsonl has the times of every step", takes_value=True),
    "--no-async-tensor-model-parallel-allreduce": ForeignFlag(
        why="Megatron-Core decides itself how to overlap that reduction"
    ),
    "--no-gradient-accumulation-fusion": ForeignFlag(why="the fused kernel is never used"),
    "--no-masked-softmax-fusion": ForeignFlag(why="attention has no separate softmax"),
    "--no-bias-gelu-fusion": ForeignFlag(why="the fused kernel is never used"),
    "--no-bias-swiglu-fusion": ForeignFlag(why="the fused kernel is never used"),
    "--no-bias-dropout-fusion": ForeignFlag(why="the fused kernel is never used"),
    "--no-rope-fusion": ForeignFlag(why="the fused kernel is never used"),
    "--no-persist-layer-norm": ForeignFlag(why="norms are torch's own"),
    "--no-overlap-p2p-communication": ForeignFlag(
        why="Megatron-Core's schedules never overlap it here, ours always do"
    ),
    "--attention-softmax-in-fp32": ForeignFlag(why="attention scores are always float32 or wider"),
    "--accumulate-allreduce-grads-in-fp32": ForeignFlag(
        why="gradients of half precisions are always summed in float32"
    ),
    "--transformer-impl": ForeignFlag(why="layers are Megatron-Core's local ones", takes_value=True),
    "--distributed-backend": ForeignFlag(why="nccl with CUDA devices, gloo without", takes_value=True),
    "--DDP-impl": ForeignFlag(why="data parallelism is always Megatron-Core's", takes_value=True),
    "--local-rank": ForeignFlag(why="torchrun says it in the environment", takes_value=True),
}

REPLACED: dict[str, str] = {
    "--context-parallel-size": "chunks divide the sequence; use --pipe-sp-splits",
    "--encoder-num-layers": "use --num-layers",
    "--encoder-seq-length": "use --seq-length",
    "--vocab": "use --vocab-file",
    "--model-parallel-size": "use --tensor-model-parallel-size",
    "--batch-size": "use --micro-batch-size and --global-batch-size",
    "--checkpoint-activations": "use --recompute-granularity full",
    "--recompute-activations": "use --recompute-granularity selective",
    "--use-rotary-position-embeddings": "use --position-embedding-type rope",
    "--use-dist-ckpt": "checkpoints always are distributed ones; leave it out",
    "--moe-expert-capacity-factor": "which tokens an expert drops would depend on the chunks; leave it out, "
    "and no token is dropped",
    "--moe-pad-expert-input-to-capacity": "experts have no capacity; leave it out",
    "--moe-grouped-gemm": "its kernels need a GPU that nothing here has run them on; leave it out, and "
    "experts run one after another",
    "--moe-layer-freq": "every layer has experts, or none",
    "--expert-tensor-parallel-size": "experts are sharded as --tensor-model-parallel-size says",
    "--multi-latent-attention": "chunks keep keys and values and not latents; use --group-query-attention",
    "--fp8-format": "float8 is not supported; use --bf16",
    "--squared-relu": "use GELU (the default) or --swiglu",
    "--use-torch-fsdp2": "use --use-distributed-optimizer",
    "--overlap-p2p-communication-warmup-flush": "Megatron-Core's messages cross in some layouts when "
    "batched; leave it out",
}


def notes_on(arguments: Iterable[str]) -> list[str]:
    """One line for each argument that is accepted and changes nothing."""
    given = dict.fromkeys(word.split("=")[0] for word in arguments)
    return [
        f"{flag} changes nothing here: {WITHOUT_EFFECT[flag].why}" for flag in given if flag in WITHOUT_EFFECT
    ]


def refuse_replaced(flags: Sequence[str]) -> None:
    """Refuse flags of Megatron-LM that something else stands for.

    Raises:
        ConfigurationError: with what to use instead.
    """
    known = [f"{flag} is not served here: {REPLACED[flag]}" for flag in flags if flag in REPLACED]
    if known:
        raise ConfigurationError("; ".join(known))
