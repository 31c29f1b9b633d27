"""The loss of a whole sequence, from what the model returned for its chunks.

A microbatch's first backward comes after its last forward. So the last stage keeps the outputs of
its chunks, tokens' losses as a rule, and calls the loss function once the last one is there, on the
whole sequence: it is computed as Megatron-Core's own schedules compute it, whatever it masks, means
or logs, and does not depend on how the sequence was cut. Its gradient, cut at the same places, is
where the chunks' backwards begin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from megatron.seq1f1b.chunk import Chunk
from megatron.seq1f1b.errors import ConfigurationError
from megatron.seq1f1b.upstream.step import forward_step_calc_loss

LossFunction = Callable[..., Any]
"""Megatron's: the model's output to (loss sum, number of tokens, log), or (mean loss, log)."""

ForwardStep = Callable[[Iterator[Any], torch.nn.Module], tuple[torch.Tensor, LossFunction]]
"""Megatron's: a data iterator and a model to the model's output and its loss function."""


class SequenceLosses:
    """The losses of one step, on the last virtual stage.

    Args:
        chunks: of every sequence.
        num_microbatches: m; a loss function's mean is averaged over them.
        config: Megatron-Core's.
        has_backward: False where no gradient will be asked for.
        collect_non_loss_data: call the loss functions for data instead of losses.
    """

    def __init__(
        self,
        chunks: Sequence[Chunk],
        *,
        num_microbatches: int,
        config: Any,
        has_backward: bool,
        collect_non_loss_data: bool,
    ) -> None:
        self._chunks = chunks
        self._num_microbatches = num_microbatches
        self._config = config
        self._has_backward = has_backward
        self._collects_data = collect_non_loss_data
        self._outputs: dict[int, list[torch.Tensor]] = {}
        self._losses: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._grads: dict[int, Sequence[torch.Tensor]] = {}
        self._logs: dict[int, list[Any]] = {}
        self.num_tokens: torch.Tensor | None = None
        """Tokens that the loss functions have counted; None until one was called."""

    def add(
        self, microbatch: int, output: torch.Tensor, loss_function: LossFunction, model: torch.nn.Module
    ) -> None:
        """Keep the output of a microbatch's next chunk, `[batch, chunk, ...]`; after its last one, call.

        Raises:
            ConfigurationError: the output is not one that outputs of chunks can be put together to.
        """
        outputs = self._outputs.setdefault(microbatch, [])
        _check_output(output, self._chunks[len(outputs)])
        outputs.append(output.detach())
        if len(outputs) == len(self._chunks):
            whole = torch.cat(self._outputs.pop(microbatch), dim=1)
            self._call(microbatch, whole.requires_grad_(self._has_backward), loss_function, model)

    def _call(
        self, microbatch: int, whole: torch.Tensor, loss_function: LossFunction, model: torch.nn.Module
    ) -> None:
        if self._config.timers is not None:  # what is called stops it
            self._config.timers("forward-compute", log_level=2).start()
        loss, num_tokens = forward_step_calc_loss(
            model,
            whole,
            loss_function,
            self._config,
            vp_stage=None,
            collect_non_loss_data=self._collects_data,
            num_microbatches=self._num_microbatches,
            forward_data_store=self._logs.setdefault(microbatch, []),
            cp_group_size=1,
            is_last_stage=True,
        )
        num_tokens = num_tokens.to(whole.device)
        self.num_tokens = num_tokens if self.num_tokens is None else self.num_tokens + num_tokens
        if self._has_backward:
            self._losses[microbatch] = (loss, whole)

    def start_backward(self, microbatch: int) -> None:
        """Compute the gradient of a microbatch's loss by what the model returned; once per microbatch."""
        if microbatch not in self._losses:
            return
        loss, whole = self._losses.pop(microbatch)
        if self._config.grad_scale_func is not None:
            loss = self._config.grad_scale_func(loss)
        if loss.requires_grad:
            torch.autograd.backward(loss)
        gradient = torch.zeros_like(whole) if whole.grad is None else whole.grad
        self._grads[microbatch] = gradient.split([chunk.length for chunk in self._chunks], dim=1)

    def grad_of(self, microbatch: int, chunk: int) -> torch.Tensor:
        """The gradient of a microbatch's loss by one chunk's output, of the output's shape."""
        grads = self._grads[microbatch]
        if chunk == 0:
            del self._grads[microbatch]
        return grads[chunk]

    def logs(self) -> list[Any]:
        """Per microbatch, what its loss function reported."""
        return [log for _, logs in sorted(self._logs.items()) for log in logs]


def _check_output(output: object, chunk: Chunk) -> None:
    shape = list(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
    if not isinstance(output, torch.Tensor) or output.dim() < 2 or output.shape[1] != chunk.length:
        raise ConfigurationError(
            f"the forward step returned {shape} for a chunk of {chunk.length} tokens, but outputs of chunks "
            "are put together along [batch, sequence, ...]: return what the model returns, and reduce "
            "the losses of tokens in the loss function, which is given those of the whole sequence"
        )
