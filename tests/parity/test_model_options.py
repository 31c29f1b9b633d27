"""Variants of the model, as Megatron-Core's own fields name them: chunks change nothing in any.

The reference is one chunk and Megatron-Core's own forward-backward function, in one process.
"""

from __future__ import annotations

from itertools import product

import pytest
import torch
import torch.nn.functional as F

from megatron.seq1f1b.model.activations import quick_gelu, squared_relu
from megatron.seq1f1b.model.norm import L2Norm
from tests.harness import run_distributed
from tests.parity.layouts import GPT2_LIKE, LLAMA_LIKE, Outcome, largest_difference, run_steps

BATCH = "--global-batch-size 2"
LLAMA_31 = (
    f"{LLAMA_LIKE} {BATCH} --rotary-base 500000 --use-rope-scaling --rope-scaling-factor 4 --no-rope-freq 2 "
    "--attention-output-gate --qk-l2-norm --apply-layernorm-1p --init-method-xavier-uniform"
)
CLAMPED = (
    f"{LLAMA_LIKE} {BATCH} --no-swiglu --quick-geglu --glu-linear-offset 1 --activation-func-clamp-value 1.5 "
    "--rotary-interleaved --rotary-seq-len-interpolation-factor 2 --softmax-scale 0.3 "
    "--embedding-init-method-std 0.5"
)
WITHOUT_POSITIONS = (
    f"{GPT2_LIKE} {BATCH} --position-embedding-type none --squared-relu --apply-layernorm-1p "
    "--qk-layernorm --disable-bf16-reduced-precision-matmul"
)
MODELS = (LLAMA_31, CLAMPED, WITHOUT_POSITIONS)
WHOLE, CHUNKED = "--pipeline-schedule 1f1b", "--pipeline-schedule seq1f1b --pipe-sp-splits"
PP2 = "--pipeline-model-parallel-size 2"
TP2 = "--tensor-model-parallel-size 2 --sequence-parallel"
SINGLE = (
    *("--softmax-scale 0.3", "--attention-output-gate", "--qk-l2-norm", "--apply-layernorm-1p"),
    *("--rotary-interleaved", "--rotary-seq-len-interpolation-factor 2", "--no-rope-freq 2"),
    *("--rotary-base 500000 --use-rope-scaling", "--position-embedding-type none"),
    *("--no-swiglu --quick-geglu", "--no-swiglu --squared-relu", "--no-swiglu --openai-gelu"),
    *("--glu-linear-offset 1", "--activation-func-clamp-value 0.5"),
    *("--init-method-xavier-uniform", "--embedding-init-method-std 0.5"),
)


def check(outcome: Outcome, expected: Outcome, *, bound: float = 1e-12) -> None:
    # A bias that all keys share has no gradient but for rounding.
    difference, name = largest_difference(outcome, expected, floor=1e-3)
    assert difference <= bound, f"{name} differs by {difference:.1e}"


def test_variants_in_chunks() -> None:
    flags = tuple(f"{model} {schedule}" for model in MODELS[:2] for schedule in (WHOLE, f"{CHUNKED} 4"))
    outcomes = run_distributed(run_steps, 1, flags, torch.float64)[0]
    for expected, outcome in zip(outcomes[::2], outcomes[1::2], strict=True):
        check(outcome, expected)


@pytest.mark.slow
def test_variants_on_two_stages_and_sharded() -> None:
    expected = run_distributed(run_steps, 1, tuple(f"{model} {WHOLE}" for model in MODELS), torch.float64)[0]
    layouts = {
        f"{PP2} {CHUNKED} 1": 1e-12,
        f"{PP2} {CHUNKED} 4 --recompute-granularity full": 1e-12,
        f"{PP2} --pipeline-schedule seq1f1b-zb --pipe-sp-splits 4": 1e-12,
        f"{TP2} {CHUNKED} 4": 1e-6,  # Megatron-Core's vocabulary-parallel loss is float32
    }
    cases = list(product(MODELS, layouts))
    flags = tuple(f"{model} {layout}" for model, layout in cases)
    for (model, layout), outcome in zip(
        cases, run_distributed(run_steps, 2, flags, torch.float64)[0], strict=True
    ):
        check(outcome, expected[MODELS.index(model)], bound=layouts[layout])


@pytest.mark.slow
def test_every_variant_is_another_model_and_the_same_in_chunks() -> None:
    plain = f"{LLAMA_LIKE} {BATCH} {WHOLE}"
    flags = [f"{LLAMA_LIKE} {BATCH} {one} {how}" for one in SINGLE for how in (WHOLE, f"{CHUNKED} 4")]
    base, *outcomes = run_distributed(run_steps, 1, (plain, *flags), torch.float64)[0]
    for variant, expected, outcome in zip(SINGLE, outcomes[::2], outcomes[1::2], strict=True):
        is_same_loss = abs(expected.loss - base.loss) < 1e-9 * base.loss
        assert is_same_loss is (variant == "--apply-layernorm-1p"), variant  # which starts as the other
        check(outcome, expected)


def test_activations_and_norms_are_those_of_their_definitions() -> None:
    x = torch.linspace(-4, 4, 24, dtype=torch.float64).view(2, 12)
    torch.testing.assert_close(squared_relu(x), torch.where(x > 0, x * x, 0))
    torch.testing.assert_close(quick_gelu(x), F.silu(1.702 * x) / 1.702)
    mean_square = L2Norm(12, eps=1e-12)(x).square().mean(-1)
    torch.testing.assert_close(mean_square, torch.ones(2, dtype=torch.float64))
