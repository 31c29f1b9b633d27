"""Slices of the loss: few tokens' logits exist at once, forward and backward."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from megatron.seq1f1b.model.loss_slices import sliced_losses
from megatron.seq1f1b.planning.live_bytes import Category, LiveBytes

TOKENS, BATCH, HIDDEN, VOCAB = 48, 2, 8, 1024
ROW_BYTES = VOCAB * 4


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, BATCH, HIDDEN, generator=generator).requires_grad_()
    labels = torch.randint(VOCAB, (BATCH, TOKENS), generator=generator)
    return hidden, labels, torch.randn(VOCAB, HIDDEN, generator=generator).requires_grad_()


def losses_with(weight: torch.Tensor) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    def losses_of(rows: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        logits = F.linear(rows, weight).transpose(0, 1)
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)

    return losses_of


def peak_of_logits(max_tokens: int) -> int:
    """Bytes that slices of so many tokens hold of the vocabulary's width, forward and backward."""
    hidden, labels, weight = inputs()
    with LiveBytes(lambda tensor: tensor.dim() > 1 and tensor.shape[-1] == VOCAB) as live:
        peak = 0
        count = live._count

        def note(*args: object) -> None:
            nonlocal peak
            count(*args)  # type: ignore[arg-type]
            peak = max(peak, live.live[Category.LOGITS])

        live._count = note  # type: ignore[method-assign]
        sliced_losses(hidden, labels, losses_with(weight), max_tokens=max_tokens).sum().backward()
    return peak


@pytest.mark.parametrize("max_tokens", [1, 7, 32, 1000])
def test_losses_and_gradients_are_those_of_the_whole(max_tokens: int) -> None:
    hidden, labels, weight = inputs()
    grad = torch.randn(labels.shape, generator=torch.Generator().manual_seed(1))
    whole = losses_with(weight)(hidden, labels)
    want = (whole, *torch.autograd.grad(whole, (hidden, weight), grad))
    sliced = sliced_losses(hidden, labels, losses_with(weight), max_tokens=max_tokens)
    have = (sliced, *torch.autograd.grad(sliced, (hidden, weight), grad))
    for expected, found in zip(want, have, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_labels_of_parts_follow_their_rows() -> None:
    """Two processes share the sequence: their rows are gathered part after part."""
    hidden, labels, weight = inputs()
    parts = hidden.detach().chunk(2)

    def gathered(rows: torch.Tensor, row_labels: torch.Tensor) -> torch.Tensor:
        at = next(i for i in range(len(parts[0])) if torch.equal(parts[0][i], rows[0]))
        both = torch.cat([part[at : at + len(rows)] for part in parts])
        return losses_with(weight)(both, row_labels)

    sliced = sliced_losses(parts[0], labels, gathered, max_tokens=20, num_parts=2)
    torch.testing.assert_close(sliced, losses_with(weight)(hidden, labels))


def test_logits_of_one_slice_exist_at_once() -> None:
    bound = 4 * ROW_BYTES  # logits, their log-probabilities, and the gradients of both
    assert ROW_BYTES * 8 <= peak_of_logits(8) <= bound * 8
    assert peak_of_logits(TOKENS * BATCH) >= ROW_BYTES * TOKENS * BATCH
