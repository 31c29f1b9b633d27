"""The estimate against the model's own code, counted by storage, at the peak and at every action."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BASE = shlex.split(
    "--num-layers 4 --hidden-size 512 --num-attention-heads 8 --seq-length 4096 --vocab-size 8191 "
    "--tokenizer-type NullTokenizer --mock-data --micro-batch-size 1 --global-batch-size 2 --train-iters 1 "
    "--lr 1e-4 --pipeline-model-parallel-size 2 --untie-embeddings-and-output-weights --bf16 "
    "--use-distributed-optimizer --pipe-sp-splits 4"
)
ROPE = ("--position-embedding-type", "rope")
MORE = ("--global-batch-size", "4")
ONE_LAYER = ("--recompute-num-layers", "1")
SLICES = ("--cross-entropy-slice-tokens", "256")
ZERO_BUBBLE = ("--pipeline-schedule", "seq1f1b-zb")
SHARDED = ("--tensor-model-parallel-size", "2", "--sequence-parallel")
LLAMA = (
    *ROPE,
    *("--swiglu", "--normalization", "RMSNorm", "--disable-bias-linear"),
    *("--group-query-attention", "--num-query-groups", "2"),
)
CLAMPED = ("--quick-geglu", "--ffn-hidden-size", "1344", "--activation-func-clamp-value", "7")
DYNAMIC = ("activations_bytes", "kv_cache_bytes", "dkv_bytes", "logits_bytes", "communication_bytes")
STATIC = ("parameters_bytes", "gradients_bytes", "optimizer_bytes")


def stages(world_size: int, *flags: str) -> list[tuple[dict[str, int], dict[str, int]]]:
    """(dry run, estimate) of every stage."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.planning.dry_runs", str(world_size), *BASE, *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    return list(zip(printed["dry"], printed["estimate"], strict=True))


def check(
    pairs: list[tuple[dict[str, int], dict[str, int]]], *, within: float, at_actions: float | None = None
) -> None:
    """Peaks agree `within` that share, and so does what is held at every action, or within `at_actions`."""
    for dry, estimated in pairs:
        for name in STATIC:
            assert estimated[name] == dry[name], name
        for name in ("kv_cache_bytes", "dkv_bytes"):
            assert estimated[name] == pytest.approx(dry[name], rel=1e-3), name
        total = sum(dry[name] for name in DYNAMIC)
        assert sum(estimated[name] for name in DYNAMIC) == pytest.approx(total, rel=within)
        counted, expected = dry["by_action"], estimated["by_action"]
        assert counted.keys() == expected.keys()
        # What stays from the first forward of a model part on (its angles, for instance) counts before, too.
        later = [action for action in counted if not action.endswith("F0.0")]
        off = {action: round(expected[action] / counted[action] - 1, 4) for action in later}
        assert max(map(abs, off.values())) <= (at_actions or within), off


@pytest.mark.slow
def test_a_gpt_with_rotary_positions() -> None:
    check(stages(2, *ROPE), within=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world_size", "flags"),
    [
        (2, ("--pipe-sp-splits", "1", *ROPE)),
        (4, (*SHARDED, *ROPE)),
        (4, ("--tensor-model-parallel-size", "2", "--micro-batch-size", "2", *MORE, *ROPE)),
        (2, LLAMA),
        (2, ("--no-untie-embeddings-and-output-weights",)),
        (2, ("--no-bf16", "--num-layers-per-virtual-pipeline-stage", "1", *ROPE)),
        (8, (*SHARDED, *LLAMA, "--tensor-model-parallel-size", "4", "--qk-layernorm")),
        (2, ("--recompute-granularity", "full", "--recompute-method", "uniform", *ONE_LAYER, *ROPE)),
        (2, ("--recompute-granularity", "selective", *ROPE)),
        (2, ("--recompute-granularity", "full", "--recompute-method", "block", *ONE_LAYER, *ROPE)),
        (2, ("--recompute-granularity", "full", "--recompute-num-layers", "2", *ROPE)),
        (2, ("--hidden-dropout", "0.1", *ROPE)),
        (2, ("--no-bf16", "--fp16", *ROPE)),
        (2, ("--num-layers-per-virtual-pipeline-stage", "1", *ROPE)),
        (2, ("--num-layers", "5", "--decoder-last-pipeline-num-layers", "1", *ROPE)),
        (2, ("--qk-layernorm", *ROPE)),
        (
            2,
            (
                *LLAMA,
                "--attention-output-gate",
                "--qk-l2-norm",
                "--no-rope-freq",
                "2",
                "--rotary-interleaved",
            ),
        ),
        (2, (*CLAMPED, "--apply-layernorm-1p", "--position-embedding-type", "none")),
        (2, (*SLICES, *ROPE)),
        (4, (*SLICES, *SHARDED, *ROPE)),
        (2, (*SLICES, *ZERO_BUBBLE, *ROPE)),
        (2, (*ZERO_BUBBLE, *ROPE)),
        (4, (*ZERO_BUBBLE, *SHARDED, *LLAMA)),
        (1, ("--pipeline-model-parallel-size", "1", "--global-batch-size", "2", *ROPE)),
    ],
    ids=[
        "1f1b",
        "tp-sp",
        "tp",
        "llama",
        "learned-tied",
        "fp32-interleaved",
        "llama-shared-groups",
        "recompute-full",
        "recompute-selective",
        "recompute-first-layers",
        "recompute-pairs",
        "dropout",
        "fp16",
        "seq1f1b-interleaved",
        "uneven",
        "qk-norm",
        "gated-attention",
        "clamped-without-positions",
        "loss-slices",
        "loss-slices-tp-sp",
        "loss-slices-zero-bubble",
        "zero-bubble",
        "zero-bubble-llama-tp-sp",
        "one-stage",
    ],
)
def test_layouts_and_models(world_size: int, flags: tuple[str, ...]) -> None:
    check(stages(world_size, *flags), within=0.02)
