"""Batches, length, precision and evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Training: batches, length and precision."""

    seq_length: int
    """Tokens per sample."""
    micro_batch_size: int
    """Samples per microbatch and data-parallel process."""
    global_batch_size: int | None = None
    """Samples per step over all processes; micro batch x data parallelism."""
    rampup_batch_size: list[int] | None = None
    """START INCREMENT SAMPLES: samples per step grow from START over the first SAMPLES of them; none."""
    train_iters: int | None = None
    """Steps to train; this or --train-samples must be given."""
    train_samples: int | None = None
    """Samples to train on, instead of --train-iters."""
    seed: int = 1234
    """Decides initial weights and the order of samples, under any layout."""
    bf16: bool = False
    """Compute in bfloat16, with float32 master weights."""
    fp16: bool = False
    """Compute in float16, with float32 master weights and a loss scale."""
    disable_bf16_reduced_precision_matmul: bool = False
    """Sum products of bfloat16 matrices in float32 throughout, on GPUs."""
    loss_scale: float | None = None
    """A fixed loss scale; one that adapts."""
    initial_loss_scale: float = 2.0**32
    """Where the adapting loss scale starts."""
    min_loss_scale: float = 1.0
    """How far it may fall."""
    loss_scale_window: int = 1000
    """Steps without overflow after which it doubles."""
    hysteresis: int = 2
    """Overflows after which it halves."""
    recompute_granularity: Literal["full", "selective"] | None = None
    """Recompute activations in backward: whole layers, or --recompute-modules; none."""
    recompute_method: Literal["uniform", "block"] | None = None
    """With full: all layers in groups, or the first layers of a stage; uniform."""
    recompute_num_layers: int | None = None
    """With full: layers in a group (uniform) or layers recomputed (block); 1."""
    recompute_modules: list[str] = field(default_factory=list)
    """With selective: which parts of a layer; core_attn."""
    cross_entropy_slice_tokens: int | None = None
    """Most tokens whose logits exist at once; backward computes them again. Those of a chunk, kept."""
    calculate_per_token_loss: bool = False
    """Weigh every token of a step alike, where some do not count; each microbatch counts alike."""
    deterministic_mode: bool = False
    """Only kernels that always give the same bits, on GPUs, too; a CPU has no others."""
    check_for_nan_in_loss_and_grad: bool = True
    """End the run at a loss or gradient that is not finite."""
    eval_iters: int = 0
    """Batches per validation; 0 for none."""
    eval_interval: int = 1000
    """Steps between validations."""
