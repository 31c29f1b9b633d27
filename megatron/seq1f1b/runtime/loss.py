"""The loss of a whole sequence from those of its chunks.

The loss of a microbatch is the sum over its tokens divided by the number of tokens that count in
the whole microbatch, so results do not depend on how the sequence is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from megatron.seq1f1b.errors import ConfigurationError

LossFunction = Callable[..., tuple[Any, ...]]
"""Megatron's: the model's output to (loss sum, number of tokens, log), or (mean loss, log)."""

ForwardStep = Callable[[Iterator[Any], torch.nn.Module], tuple[torch.Tensor, LossFunction]]
"""Megatron's: a data iterator and a model to the model's output and its loss function."""


class TokenWeights:
    """Weighs the loss of one chunk by its tokens.

    Args:
        loss_mask: which tokens of the whole microbatch count, `[batch, sequence]`; None if unknown.
        scale: tokens of the sequence over those of the chunk, which Megatron-Core divides by.
        config: Megatron-Core's.
    """

    def __init__(self, loss_mask: torch.Tensor | None, scale: float, config: Any) -> None:
        self._loss_mask = loss_mask
        self._scale = scale
        self._is_per_token = config.calculate_per_token_loss

    def wrap(self, forward_step_func: ForwardStep) -> ForwardStep:
        """The user's forward step with a loss function whose result is weighed."""

        def step(data_iterator: Iterator[Any], model: torch.nn.Module) -> tuple[torch.Tensor, LossFunction]:
            output, loss_function = forward_step_func(data_iterator, model)
            return output, lambda *args, **kwargs: self.weigh(loss_function(*args, **kwargs))

        return step

    def weigh(self, outputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """What Megatron-Core shall see of a loss function's result.

        Raises:
            ConfigurationError: the tokens that the result must be weighted by are not known.
        """
        if len(outputs) == 3:
            loss_sum, num_tokens, log = outputs
            if self._is_per_token:
                return loss_sum, num_tokens, log
            return loss_sum * self._scale / self._num_loss_tokens(loss_sum.dtype), log
        mean, log = outputs
        self._check_all_count()
        return mean, {name: value / self._scale for name, value in log.items()}

    def _num_loss_tokens(self, dtype: torch.dtype) -> torch.Tensor:
        if self._loss_mask is None:
            raise ConfigurationError(
                "the last stage's batches have no `loss_mask`, so the number of tokens in the loss of "
                "the whole microbatch is unknown; add it to the batch, or say where it is"
            )
        return self._loss_mask.sum().clamp(min=1).to(dtype)

    def _check_all_count(self) -> None:
        """A mean per chunk is only the mean of the sequence where every token counts."""
        if self._loss_mask is None or not bool(self._loss_mask.bool().all()):
            counted = "an unknown number" if self._loss_mask is None else int(self._loss_mask.sum())
            total = "its" if self._loss_mask is None else self._loss_mask.numel()
            raise ConfigurationError(
                f"the loss function returned a mean, but {counted} of {total} tokens of the microbatch "
                "count in it, so means of chunks cannot be put together; return (loss sum, number of "
                "tokens, log) instead"
            )
