"""Where a plan splits backwards, the weights of linear layers get their gradients in W, all others in I."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from megatron.seq1f1b.runtime.program import MegatronProgram
from tests.harness import run_distributed
from tests.parity.layouts import LLAMA_LIKE, largest_difference, run_step, run_steps

FLAGS = f"{LLAMA_LIKE} --pipeline-model-parallel-size 2 --pipe-sp-splits 2 --global-batch-size 2"


def gradients_by_action(flags: str) -> set[tuple[str, bool, bool]]:
    """Of a step: (action, whether a matrix of this stage got a gradient in it, whether a norm did)."""
    found = set()

    def watched(kind: str, action: Callable[..., object]) -> Callable[..., object]:
        def watch(self: MegatronProgram, *args: object) -> object:
            weights = [(p, p.main_grad.clone()) for p in self._parts[0].module.decoder.parameters()]
            result = action(self, *args)
            waiting = [product for left in self._weight_gradients._pending.values() for product in left]
            operands = [operand for product in waiting for operand in product.args]  # type: ignore[attr-defined]
            assert all(operand.grad_fn is None for operand in operands), "what waits holds no graph"
            changed = [p.dim() for p, before in weights if not torch.equal(p.main_grad, before)]
            found.add((kind, 2 in changed, 1 in changed))
            return result

        return watch

    for kind, name in (("I", "backward_input"), ("W", "backward_weight")):
        setattr(MegatronProgram, name, watched(kind, getattr(MegatronProgram, name)))
    run_step(flags, torch.float32)
    return found


def test_weights_of_linear_layers_wait_for_their_own_action() -> None:
    first, last = run_distributed(gradients_by_action, 2, f"{FLAGS} --pipeline-schedule seq1f1b-zb")
    assert first == set(), "the first stage computes whole backwards"
    assert last == {("I", False, True), ("W", True, False)}


MIXED = """\
0F0.0,0F0.1,0F1.0,0F1.1,0I0.1,0I0.0,0B1.1,0W0.0,0I1.0,0W0.1,0W1.0
1F0.0,1F0.1,1I0.1,1I0.0,1F1.0,1F1.1,1B1.1,1B1.0,1W0.0,1W0.1
"""
"""Whole and split backwards side by side, and weight gradients in an order of their own."""


def test_a_plan_may_mix_whole_and_split_backwards(tmp_path: Path) -> None:
    plan = tmp_path / "mixed.csv"
    plan.write_text(MIXED)
    runs = tuple(f"{FLAGS} --pipeline-schedule {schedule}" for schedule in ("seq1f1b", plan))
    whole, mixed = run_distributed(run_steps, 2, runs, torch.float64)[0]
    difference, name = largest_difference(mixed, whole)
    assert difference <= 1e-12, f"{name} differs by {difference:.1e}"
