"""Mixture of experts in chunks against one process and one chunk of Megatron-Core's own function.

In float64; with tensor parallelism the vocabulary-parallel loss computes in float32, and sigmoid
scores always are. The auxiliary losses of chunks, added up, would make routers' gradients differ by
2e-1 here.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch

from tests.harness import run_distributed
from tests.parity.layouts import LLAMA_LIKE, Outcome, largest_difference, run_steps

EXPERTS = f"{LLAMA_LIKE} --num-experts 4 --moe-ffn-hidden-size 24 --global-batch-size 4 "
BALANCED = "--moe-aux-loss-coeff 0.5 --moe-z-loss-coeff 0.1"
PER_SEQUENCE = f"{BALANCED} --moe-router-load-balancing-type seq_aux_loss --micro-batch-size 2"
BY_BIAS = (
    "--moe-router-load-balancing-type none --moe-router-enable-expert-bias "
    "--moe-router-score-function sigmoid --moe-shared-expert-intermediate-size 16 "
    "--moe-router-num-groups 2 --moe-router-group-topk 1"
)
PER_TOKEN = f"{BALANCED} --calculate-per-token-loss"
GELU = "--no-swiglu --moe-router-topk 1 --moe-router-pre-softmax"
GATED = (
    "--moe-shared-expert-intermediate-size 16 --moe-shared-expert-gate --moe-apply-probs-on-input "
    "--moe-router-topk 1 --moe-router-pre-softmax"
)

PP2 = "--pipeline-model-parallel-size 2"
SEQ1F1B = "--pipeline-schedule seq1f1b --pipe-sp-splits"
INTERLEAVED = (
    "--pipeline-schedule seq1f1b-interleaved --num-layers-per-virtual-pipeline-stage 1 --pipe-sp-splits"
)
ZERO_BUBBLE = "--pipeline-schedule seq1f1b-zb --pipe-sp-splits"
TP2 = "--tensor-model-parallel-size 2 --sequence-parallel"
EP2 = "--expert-model-parallel-size 2"
ALL_TO_ALL = "--moe-token-dispatcher-type alltoall"
FULL = "--recompute-granularity full"
MOE = "--recompute-granularity selective --recompute-modules moe"
BOUND, BOUND_IN_FLOAT32 = 1e-11, 1e-6


@cache
def reference(model: str) -> Outcome:
    """One process, one chunk, Megatron-Core's own function."""
    flags = f"{EXPERTS} {model} --pipeline-schedule 1f1b"
    (outcome,) = run_distributed(run_steps, 1, (flags,), torch.float64)[0]
    return outcome


def check(world_size: int, *cases: tuple[str, str]) -> None:
    flags = tuple(f"{EXPERTS} {model} {layout}" for model, layout in cases)
    outcomes = run_distributed(run_steps, world_size, flags, torch.float64)[0]
    for (model, layout), outcome in zip(cases, outcomes, strict=True):
        difference, name = largest_difference(outcome, reference(model))
        is_partly_float32 = TP2 in layout or "sigmoid" in model
        bound = BOUND_IN_FLOAT32 if is_partly_float32 else BOUND
        assert difference <= bound, f"{name} differs by {difference:.1e} under {model} {layout}"


def test_balanced_experts_on_two_stages() -> None:
    check(
        2,
        (BALANCED, f"{PP2} {SEQ1F1B} 4 {MOE}"),
        (BALANCED, f"{PP2} {ZERO_BUBBLE} 4"),
        (BALANCED, f"{EP2} {ALL_TO_ALL} {SEQ1F1B} 4"),
        (GATED, f"{PP2} {ZERO_BUBBLE} 4"),
    )


@pytest.mark.slow
def test_kinds_of_routing() -> None:
    check(
        1,
        ("", f"{SEQ1F1B} 4"),
        (BALANCED, f"{SEQ1F1B} 4"),
        (BALANCED, f"{SEQ1F1B} 7 {FULL}"),
        (PER_SEQUENCE, f"{SEQ1F1B} 4"),
        (BY_BIAS, f"{SEQ1F1B} 4"),
        (GELU, f"{SEQ1F1B} 4"),
    )


@pytest.mark.slow
def test_every_chunked_schedule() -> None:
    check(
        2,
        ("", f"{PP2} {SEQ1F1B} 4"),
        (BALANCED, f"{PP2} {SEQ1F1B} 4"),
        (BALANCED, f"{PP2} {INTERLEAVED} 4"),
        (BALANCED, f"{PP2} {ZERO_BUBBLE} 4"),
    )


@pytest.mark.slow
def test_tensor_and_expert_parallelism() -> None:
    check(
        4,
        (BALANCED, f"{PP2} {TP2} {SEQ1F1B} 4"),
        (BALANCED, f"{PP2} {TP2} {ZERO_BUBBLE} 2 {ALL_TO_ALL}"),
        (GATED, f"{PP2} {TP2} {SEQ1F1B} 4 {FULL}"),
        (BALANCED, f"{PP2} {EP2} {SEQ1F1B} 4 {ALL_TO_ALL}"),
        (BALANCED, f"{PP2} {EP2} {ZERO_BUBBLE} 4 --overlap-grad-reduce"),
        (PER_TOKEN, f"{PP2} {TP2} {SEQ1F1B} 1"),
        (PER_TOKEN, f"{PP2} {TP2} {SEQ1F1B} 4"),
        (PER_TOKEN, f"{PP2} {EP2} {SEQ1F1B} 4 {ALL_TO_ALL}"),
        (BALANCED, f"{TP2} {EP2} {SEQ1F1B} 4 {ALL_TO_ALL} {MOE} layernorm"),
    )
