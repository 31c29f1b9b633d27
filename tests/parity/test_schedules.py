"""Every layout and schedule against one process without pipeline or chunks: loss and all gradients.

The reference is Megatron-Core's own forward-backward function on one process.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch

from tests.harness import run_distributed
from tests.parity.layouts import GPT2_LIKE, LLAMA_LIKE, Outcome, largest_difference, run_steps

SHAPES = {"gpt2": GPT2_LIKE, "llama": LLAMA_LIKE}
PP2 = "--pipeline-model-parallel-size 2"
PP4 = "--pipeline-model-parallel-size 4"
TP2_PP2 = f"{PP2} --tensor-model-parallel-size 2 --sequence-parallel"
TP4 = "--tensor-model-parallel-size 4 --sequence-parallel"
SEQ1F1B = "--pipeline-schedule seq1f1b --pipe-sp-splits"
INTERLEAVED = (
    "--pipeline-schedule seq1f1b-interleaved --num-layers-per-virtual-pipeline-stage 1 --pipe-sp-splits"
)
ZERO_BUBBLE = "--pipeline-schedule seq1f1b-zb --pipe-sp-splits"
EVEN = "--pipe-sp-strategy average"

BY_WORLD_SIZE = {
    1: (
        f"{SEQ1F1B} 1",
        f"{SEQ1F1B} 2",
        f"{SEQ1F1B} 4",
        f"{SEQ1F1B} 4 {EVEN}",
        f"{SEQ1F1B} 7",
    ),
    2: (
        f"{PP2} --pipeline-schedule 1f1b",
        f"{PP2} {SEQ1F1B} 1",
        f"{PP2} {SEQ1F1B} 2",
        f"{PP2} {SEQ1F1B} 4",
        f"{PP2} {SEQ1F1B} 4 {EVEN}",
        f"{PP2} {SEQ1F1B} 4 --global-batch-size 1",
        f"{PP2} {INTERLEAVED} 1",
        f"{PP2} {INTERLEAVED} 2",
        f"{PP2} {INTERLEAVED} 4",
        f"{PP2} {ZERO_BUBBLE} 1",
        f"{PP2} {ZERO_BUBBLE} 2",
        f"{PP2} {ZERO_BUBBLE} 4",
        f"{PP2} --pipeline-schedule interleaved --num-layers-per-virtual-pipeline-stage 1",
    ),
    4: (
        f"{PP4} {SEQ1F1B} 1",
        f"{PP4} {SEQ1F1B} 2",
        f"{PP4} {SEQ1F1B} 4",
        f"{PP4} {SEQ1F1B} 8 {EVEN}",
        f"{PP4} {SEQ1F1B} 4 --global-batch-size 3",
        f"{PP4} {SEQ1F1B} 2 --global-batch-size 8",
        f"{PP2} --tensor-model-parallel-size 2 {ZERO_BUBBLE} 2",
        f"{PP2} {SEQ1F1B} 4",
        f"{PP2} {SEQ1F1B} 4 --overlap-grad-reduce",
        f"{PP2} {INTERLEAVED} 2",
        f"{TP2_PP2} {SEQ1F1B} 1",
        f"{TP2_PP2} {SEQ1F1B} 2",
        f"{TP2_PP2} {SEQ1F1B} 4",
        f"{TP2_PP2} {INTERLEAVED} 2",
        f"{PP4} {INTERLEAVED} 2",
        f"{PP4} {INTERLEAVED} 3 --global-batch-size 3",
        f"{PP4} {ZERO_BUBBLE} 1",
        f"{PP4} {ZERO_BUBBLE} 4",
        f"{PP4} {ZERO_BUBBLE} 4 --global-batch-size 3",
        f"{PP2} {ZERO_BUBBLE} 2 --overlap-grad-reduce",
        f"{TP2_PP2} {ZERO_BUBBLE} 2",
    ),
}
BOUNDS = {torch.float64: 1e-12, torch.float32: 1e-5}
WITH_TENSOR_PARALLELISM = 1e-6
"""Megatron-Core's vocabulary-parallel cross-entropy computes in float32."""


@cache
def reference(shape: str, dtype: torch.dtype, global_batch_size: int) -> Outcome:
    """One process, one chunk, Megatron-Core's own function."""
    flags = f"{SHAPES[shape]} --pipeline-schedule 1f1b --global-batch-size {global_batch_size}"
    (outcome,) = run_distributed(run_steps, 1, (flags,), dtype)[0]
    return outcome


def batch_size(flags: str) -> int:
    words = flags.split()
    return int(words[words.index("--global-batch-size") + 1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("world_size", BY_WORLD_SIZE)
@pytest.mark.parametrize("shape", SHAPES)
def test_loss_and_every_gradient_equal_one_process(shape: str, world_size: int, dtype: torch.dtype) -> None:
    layouts = [f"{SHAPES[shape]} --global-batch-size 4 {flags}" for flags in BY_WORLD_SIZE[world_size]]
    sized = [_with_last_batch_size(flags) for flags in layouts]
    outcomes = run_distributed(run_steps, world_size, tuple(sized), dtype)[0]
    for flags, outcome in zip(sized, outcomes, strict=True):
        bound = BOUNDS[dtype]
        if "--tensor-model-parallel-size" in flags:
            bound = max(bound, WITH_TENSOR_PARALLELISM)
        difference, name = largest_difference(outcome, reference(shape, dtype, batch_size(flags)))
        assert difference <= bound, f"{name} differs by {difference:.1e} under {flags}"
    _check_equal_to_the_last_bit(dict(zip(sized, outcomes, strict=True)), has_pairs=world_size > 1)


def _check_equal_to_the_last_bit(outcomes: dict[str, Outcome], *, has_pairs: bool) -> None:
    """A split backward adds up what the whole one does, in its order."""
    pairs = [(flags, flags.replace(ZERO_BUBBLE, SEQ1F1B)) for flags in outcomes if ZERO_BUBBLE in flags]
    pairs = [(split, whole) for split, whole in pairs if whole in outcomes]
    assert bool(pairs) is has_pairs
    for split, whole in pairs:
        for name, gradient in outcomes[whole].grads.items():
            assert torch.equal(outcomes[split].grads[name], gradient), f"{name} is not the same under {split}"


def test_processes_that_share_a_group_of_queries() -> None:
    layouts = tuple(
        f"{LLAMA_LIKE} {TP4} --global-batch-size 1 {flags}"
        for flags in (f"{SEQ1F1B} 1", f"{SEQ1F1B} 4 --recompute-granularity full")
    )
    for outcome in run_distributed(run_steps, 4, layouts, torch.float64)[0]:
        difference, name = largest_difference(outcome, reference("llama", torch.float64, 1))
        assert difference <= WITH_TENSOR_PARALLELISM, f"{name} differs by {difference:.1e}"


def _with_last_batch_size(flags: str) -> str:
    """The flags with only the last of several batch sizes, the one that counts."""
    head, *sizes = flags.split("--global-batch-size")
    rest = [size.split(maxsplit=1) for size in sizes]
    return " ".join([head, *(part[1] for part in rest if len(part) > 1)]) + (
        f" --global-batch-size {rest[-1][0]}"
    )
