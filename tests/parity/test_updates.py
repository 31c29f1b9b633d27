"""Weights after a few steps of every optimizer: chunked in a pipeline as in one process, and as was meant."""

from __future__ import annotations

import pytest
import torch

from tests.harness import run_distributed
from tests.parity.layouts import GPT2_LIKE, LLAMA_LIKE
from tests.parity.updates import largest_difference, trained_weights

# Megatron-Core clips gradients of float32 alone.
BASE = "--global-batch-size 4 --weight-decay 0.1 --clip-grad 0"
PP2 = "--pipeline-model-parallel-size 2 --pipe-sp-splits 4"
TIED_SGD = f"{GPT2_LIKE} {BASE} --optimizer sgd --decoupled-lr 1e-2 --decoupled-min-lr 5e-3"
L2_ADAM = f"{LLAMA_LIKE} {BASE} --qk-layernorm --apply-wd-to-qk-layernorm --no-decoupled-weight-decay"
UNTIED_ADAM = f"{LLAMA_LIKE} {BASE} --decoupled-lr 1e-2"
EMBEDDINGS = ("embedding.word_embeddings.weight", "output_layer.weight")


def check(model: str, world_size: int, *layouts: str) -> None:
    (expected,) = run_distributed(
        trained_weights, 1, (f"{model} --pipeline-schedule 1f1b",), torch.float64, 3
    )[0]
    runs = tuple(f"{model} {layout}" for layout in layouts)
    for layout, found in zip(
        layouts, run_distributed(trained_weights, world_size, runs, torch.float64, 3)[0], strict=True
    ):
        difference, name = largest_difference(found, expected)
        assert difference <= 1e-10, f"{name} differs by {difference:.1e} under {layout}"


def test_sgd_and_a_learning_rate_of_tied_embeddings() -> None:
    check(TIED_SGD, 2, f"{PP2} --pipeline-schedule seq1f1b-zb")


@pytest.mark.slow
def test_every_optimizer_in_other_layouts() -> None:
    virtual = "--num-virtual-stages-per-pipeline-rank 2"
    check(TIED_SGD, 2, "--pipe-sp-splits 3")
    check(L2_ADAM, 2, PP2, f"{PP2} {virtual}")
    check(UNTIED_ADAM, 2, PP2, "--pipe-sp-splits 3 --overlap-grad-reduce")


def test_what_is_asked_of_some_weights_is_done_to_them_alone() -> None:
    """One step of plain SGD: linear in the learning rate, and in the decay of weights that are one."""
    plain = f"{LLAMA_LIKE} {BASE} --qk-layernorm --optimizer sgd --sgd-momentum 0 --lr"
    asked = (
        "1e-3",
        "1e-2",
        "1e-3 --decoupled-lr 1e-2 --apply-wd-to-qk-layernorm",
        "1e-3 --optimizer adam",
    )
    slow, fast, mixed, adam = run_distributed(
        trained_weights, 1, tuple(f"{plain} {words}" for words in asked), torch.float64, 1
    )[0]
    for name, weight in mixed.items():
        expected = (fast if name in EMBEDDINGS else slow)[name]
        if "q_layernorm" in name or "k_layernorm" in name:
            expected = expected - 1e-3 * 0.1
        torch.testing.assert_close(weight, expected, rtol=0, atol=1e-15)
    assert largest_difference(adam, slow)[0] > 1e-3
