"""Our AdamW against torch's: equal to the last bit, also after its state went through a dictionary."""

from __future__ import annotations

import copy

import megatron.core.optimizer as optimizers
import pytest
import torch

from megatron.seq1f1b.upstream.adam import GroupStepAdamW, choose_adam

OPTIONS = {"lr": 1e-2, "weight_decay": 0.1, "betas": (0.9, 0.95), "eps": 1e-8}


def parameters() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(5, 3, generator=generator, requires_grad=True) for _ in range(3)]


def take_steps(
    optimizer: torch.optim.Optimizer, values: list[torch.Tensor], *, first: int, count: int
) -> None:
    for step in range(first, first + count):
        generator = torch.Generator().manual_seed(100 + step)
        for value in values:
            value.grad = torch.randn(value.shape, generator=generator)
        optimizer.step()


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.Adam])
def test_equals_torchs_to_the_last_bit(kind: type[torch.optim.Optimizer]) -> None:
    ours, theirs = parameters(), parameters()
    is_decoupled = kind is torch.optim.AdamW
    optimizer = GroupStepAdamW(ours, adam_w_mode=is_decoupled, **OPTIONS)  # type: ignore[arg-type]
    take_steps(optimizer, ours, first=0, count=5)
    take_steps(kind(theirs, **OPTIONS), theirs, first=0, count=5)  # type: ignore[arg-type]
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_restored_state_goes_on_exactly() -> None:
    straight, first = parameters(), parameters()
    take_steps(GroupStepAdamW(straight, **OPTIONS), straight, first=0, count=5)  # type: ignore[arg-type]
    optimizer = GroupStepAdamW(first, **OPTIONS)  # type: ignore[arg-type]
    take_steps(optimizer, first, first=0, count=2)
    second = [value.detach().clone().requires_grad_() for value in first]
    restored = GroupStepAdamW(second, **OPTIONS)  # type: ignore[arg-type]
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    take_steps(restored, second, first=2, count=3)
    assert all(torch.equal(a, b) for a, b in zip(straight, second, strict=True))
    assert restored.param_groups[0]["step"] == 5


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("transformer_engine.pytorch.optimizers.fused_adam", "Transformer Engine's fused"),
        ("apex.optimizers.fused_adam", "Apex's fused"),
    ],
)
def test_a_fused_adam_that_megatron_core_found_is_left_and_named(
    module: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fused = type("FusedAdam", (), {"__module__": module})
    monkeypatch.setattr(optimizers, "Adam", fused)
    monkeypatch.setattr(optimizers, "USING_PYTORCH_OPTIMIZER", False)
    assert choose_adam() == name
    assert optimizers.Adam is fused
