"""Mixture of experts: what cannot run is refused with its numbers."""

from __future__ import annotations

import pytest

from megatron.seq1f1b.config import parse_arguments, validate
from megatron.seq1f1b.errors import ConfigurationError
from tests.config.flags import words

FOUR = "--num-experts 4 --disable-bias-linear"
WHOLE = "--pipeline-schedule 1f1b --pipe-sp-splits 1"
TP2 = "--tensor-model-parallel-size 2 --sequence-parallel"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--moe-router-topk 1", "--moe-router-topk 1 needs --num-experts"),
        ("--num-experts 4", "needs --disable-bias-linear"),
        (f"{FOUR} --moe-router-topk 5", "5 is more than --num-experts 4"),
        (f"{FOUR} --moe-router-topk 1", "add --moe-router-pre-softmax"),
        (f"{FOUR} --moe-router-topk-scaling-factor 2", "add --moe-router-pre-softmax"),
        (f"{FOUR} --moe-router-num-groups 2", "go together"),
        (f"{FOUR} --moe-router-num-groups 3 --moe-router-group-topk 1", "not divisible"),
        (f"{FOUR} --moe-router-num-groups 4 --moe-router-group-topk 1", "hold 2 experts"),
        (f"{FOUR} --moe-router-enable-expert-bias", "--moe-router-score-function sigmoid"),
        (f"{FOUR} --moe-router-load-balancing-type none --moe-aux-loss-coeff 1", "leave one out"),
        (f"{FOUR} --expert-model-parallel-size 3", "4 is not divisible"),
        (f"{FOUR} --expert-model-parallel-size 4", "among the 2 data-parallel processes"),
        (f"{FOUR} --moe-apply-probs-on-input", "needs --moe-router-topk 1, and it is 2"),
        (
            f"{FOUR} {TP2} --calculate-per-token-loss --moe-z-loss-coeff 0.1 {WHOLE}",
            "1/2 of their weight; use --pipeline-schedule seq1f1b",
        ),
        (f"{FOUR} --moe-shared-expert-gate", "needs --moe-shared-expert-intermediate-size"),
        (f"{FOUR} --tensor-model-parallel-size 2", "needs --sequence-parallel"),
        (
            f"{FOUR} --recompute-granularity selective --recompute-modules mlp",
            "of layers without experts; use moe",
        ),
    ],
)
def test_refuses_by_name(flags: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        validate(parse_arguments(words(flags)), world_size=4)


@pytest.mark.parametrize("module", ["moe", "shared_experts"])
def test_recomputing_experts_needs_experts(module: str) -> None:
    flags = f"--recompute-granularity selective --recompute-modules {module}"
    with pytest.raises(ConfigurationError, match=f"{module} needs --num-experts"):
        validate(parse_arguments(words(flags)), world_size=4)


@pytest.mark.parametrize(
    "flag", ["--moe-expert-capacity-factor=1", "--moe-grouped-gemm", "--multi-latent-attention"]
)
def test_what_is_not_served_says_what_to_do(flag: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{flag.split('=')[0]} is not served here: "):
        parse_arguments(words(flag))
