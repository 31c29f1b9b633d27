"""Losses and gradients that are not finite, named by where they came from."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from megatron.seq1f1b.errors import StepError
from megatron.seq1f1b.training.build import Trained


class LossWatch:
    """The losses of one step on this process, looked at when the step is over.

    Looking at each as it is computed would make the device's queue run dry.
    """

    def __init__(self) -> None:
        self._losses: list[torch.Tensor] = []

    def clear(self) -> None:
        """Forget the last step."""
        self._losses.clear()

    def add(self, loss: torch.Tensor) -> None:
        """Remember the loss of the next microbatch."""
        self._losses.append(loss.detach())

    def first_not_finite(self) -> str | None:
        """Microbatch and value of the first loss that is not finite."""
        values = enumerate(map(float, self._losses))
        return next(
            (
                f"the loss of microbatch {index} is {value}"
                for index, value in values
                if not math.isfinite(value)
            ),
            None,
        )


WATCH = LossWatch()
"""Of this process; steps follow one another."""


def check_finite(trained: Trained, number: float | None, *, what: str) -> None:
    """Refuse a number of the step that is not finite; it is equal on every process.

    Raises:
        StepError: with the first loss, or else the first parameters, that are not finite.
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
    raise StepError(f"the {what} is {number}: {places[0] if places else 'no stage has it by itself'}")


def _not_finite(parts: Sequence[torch.nn.Module]) -> list[str]:
    return [
        name
        for part in parts
        for name, parameter in part.named_parameters()
        if not bool(torch.isfinite(parameter.main_grad).all())  # type: ignore[attr-defined]
    ]
