"""Losses and gradients that are not finite, named by where they came from."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from megatron.seq1f1b.chunk import Boundaries
from megatron.seq1f1b.errors import NotFiniteError
from megatron.seq1f1b.training.build import Trained


class LossWatch:
    """The losses of one step on this process, looked at when the step is over.

    Looking at each as it is computed would make the device's queue run dry.
    """

    def __init__(self) -> None:
        self._boundaries: Boundaries = (0,)
        self._losses: list[tuple[torch.Tensor, torch.Tensor]] = []

    def begin(self, boundaries: Boundaries) -> None:
        """Forget the last step; sequences of this one are cut there."""
        self._boundaries = boundaries
        self._losses.clear()

    def add(self, loss: torch.Tensor, losses: torch.Tensor) -> None:
        """Remember the next microbatch's loss, and which of its tokens' `[batch, tokens]` is at fault."""
        is_finite = torch.isfinite(losses.detach()).all(dim=0)
        first = torch.where(is_finite.all(), -1, is_finite.to(torch.uint8).argmin())
        self._losses.append((loss.detach(), first))

    def first_not_finite(self) -> str | None:
        """Microbatch, chunk and value of the first loss that is not finite."""
        for microbatch, (loss, first) in enumerate(self._losses):
            if not math.isfinite(float(loss)):
                return f"the loss of microbatch {microbatch}{self._chunk_of(int(first))} is {float(loss)}"
        return None

    def _chunk_of(self, token: int) -> str:
        """Nothing where there is one chunk, or where tokens' losses are finite and their sum is not."""
        if token < 0 or len(self._boundaries) <= 2:
            return ""
        return f", chunk {bisect_right(self._boundaries, token) - 1} (token {token})"


WATCH = LossWatch()
"""Of this process; steps follow one another."""


def check_finite(trained: Trained, number: float | None, *, what: str) -> None:
    """Refuse a number of the step that is not finite; it is equal on every process.

    Raises:
        NotFiniteError: with the first loss, or else the first parameters, that are not finite.
    """
    if number is None or math.isfinite(number):
        return
    stage = parallel_state.get_pipeline_model_parallel_rank()
    loss, names = WATCH.first_not_finite(), _not_finite(trained.parts)
    some = f"{', '.join(names[:3])}{' and others' * (len(names) > 3)}"
    found = (loss, f"gradients of {some}" if names else None)
    everyone: list[tuple[int, tuple[str | None, str | None]]] = [(stage, found)] * dist.get_world_size()
    dist.all_gather_object(everyone, (stage, found))
    places = [(f"{text} on stage {at}") for kind in (0, 1) for at, texts in everyone if (text := texts[kind])]
    raise NotFiniteError(f"the {what} is {number}: {places[0] if places else 'no stage has it by itself'}")


def _not_finite(parts: Sequence[torch.nn.Module]) -> list[str]:
    return [
        name
        for part in parts
        for name, parameter in part.named_parameters()
        if not bool(torch.isfinite(parameter.main_grad).all())  # type: ignore[attr-defined]
    ]
