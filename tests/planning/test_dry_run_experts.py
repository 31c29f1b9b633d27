"""Mixtures of experts: the closed form against the model's own code with balanced routers."""

from __future__ import annotations

import os

import pytest

from tests.planning.test_dry_run import LLAMA, MORE, SHARDED, ZERO_BUBBLE, check, stages

EXPERTS = ("--num-experts", "8", "--moe-ffn-hidden-size", "512")
SHARED_BY_TWO = ("--expert-model-parallel-size", "2")
SENT = ("--moe-token-dispatcher-type", "alltoall")
WIDE = ("--moe-ffn-hidden-size", "2048", "--moe-aux-loss-coeff", "0.01", "--moe-z-loss-coeff", "0.001")
GELU = ("--no-swiglu", "--moe-router-topk", "1", "--moe-router-pre-softmax")

GATED = (
    *("--moe-router-topk", "1", "--moe-router-pre-softmax", "--moe-apply-probs-on-input"),
    *("--moe-shared-expert-intermediate-size", "256", "--moe-shared-expert-gate"),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world_size", "flags"),
    [
        (2, ()),
        (2, WIDE),
        (4, (*SHARED_BY_TWO, *MORE)),
        (4, (*SHARED_BY_TWO, *SENT, *MORE, "--moe-shared-expert-intermediate-size", "256")),
        (4, SHARDED),
        (8, (*SHARDED, *SHARED_BY_TWO, *SENT, *MORE)),
        (2, ("--recompute-granularity", "full")),
        (2, ZERO_BUBBLE),
        (2, GELU),
        (2, GATED),
        (4, (*SHARDED, *GATED)),
    ],
    ids=[
        "plain",
        "wide",
        "shared",
        "sent",
        "tp-sp",
        "tp-sp-shared-sent",
        "recompute",
        "zero-bubble",
        "gelu",
        "gated",
        "tp-sp-gated",
    ],
)
def test_layouts_and_routing(world_size: int, flags: tuple[str, ...]) -> None:
    # Dispatchers keep a little of the last microbatch, which shows where little else is kept.
    remade = 0.07 if "full" in flags else None
    check(stages(world_size, *LLAMA, *EXPERTS, *flags), within=0.05, at_actions=remade)


@pytest.mark.slow
def test_one_processor_plays_all_stages() -> None:
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(everywhere)})
    try:
        check(stages(2, *LLAMA, *EXPERTS, *WIDE), within=0.05, at_actions=None)
    finally:
        os.sched_setaffinity(0, everywhere)
