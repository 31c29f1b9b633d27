"""Cuts what a forward step gives to its model to the chunk that is being computed.

A forward step runs as it was written, on whole microbatches. Where it calls the model, a hook keeps
the chunk's columns of every tensor `[batch, sequence, ...]` and adds the chunk's parameters as
`packed_seq_params`. What cannot be cut is refused by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Protocol

import torch

from megatron.seq1f1b.chunk import Chunk
from megatron.seq1f1b.errors import ConfigurationError
from megatron.seq1f1b.runtime.executor import Unit
from megatron.seq1f1b.upstream.step import get_attr_wrapped_model

_UNSERVED = ("decoder_input", "inference_context", "inference_params", "extra_block_kwargs")
_PARAMS = "packed_seq_params"


class ChunkParams(Protocol):
    """What the chunks of one microbatch share on one virtual stage: the KV cache."""

    def params(self, unit: Unit, given: object, *, num_sequences: int | None) -> object:
        """What the model takes as `packed_seq_params` for this unit.

        Args:
            unit: which chunk.
            given: what the forward step gave as `packed_seq_params`, of the whole sequences.
            num_sequences: of the microbatch; None where the stage was given no tokens.
        """


class ModelInputs:
    """Hooks on the model parts of one pipeline rank.

    Args:
        parts: the caller's, as wrapped as they are.
        chunks: of every sequence.
        params: makes a unit's `packed_seq_params`.
        micro_batch_size: sequences of a microbatch; None leaves them unchecked.
    """

    def __init__(
        self,
        parts: Sequence[torch.nn.Module],
        chunks: Sequence[Chunk],
        params: ChunkParams,
        *,
        micro_batch_size: int | None = None,
    ) -> None:
        self._models = [get_attr_wrapped_model(part, "decoder", return_model_obj=True) for part in parts]
        self._chunks = chunks
        self._params = params
        self._micro_batch_size = micro_batch_size
        self._unit: Unit | None = None
        self._num_calls = 0

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Within, calls of the models are cut.

        Raises:
            ConfigurationError: a model that takes no `packed_seq_params`.
        """
        with ExitStack() as stack:
            for model in self._models:
                signature = inspect.signature(model.forward)
                if _PARAMS not in signature.parameters:
                    raise ConfigurationError(
                        f"{type(model).__name__}.forward takes no {_PARAMS}, through which chunks reach the "
                        "layers; take the argument and hand it on, as Megatron-Core's GPTModel does"
                    )
                hook = partial(self._cut_call, signature)
                handle = model.register_forward_pre_hook(hook, with_kwargs=True)
                stack.callback(handle.remove)
            yield

    @contextmanager
    def cut_to(self, unit: Unit) -> Iterator[None]:
        """Within, one forward step computes `unit`.

        Raises:
            ConfigurationError: it called its model more or less than once.
        """
        self._unit, self._num_calls = unit, 0
        yield
        self._unit = None
        if self._num_calls == 0:
            raise ConfigurationError(
                "the forward step did not call its model, so the chunk has no keys and values; call the "
                "model that the forward step is given, once"
            )

    def _cut_call(
        self,
        signature: inspect.Signature,
        module: torch.nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        assert self._unit is not None, "hooks are installed while a step runs"
        self._num_calls += 1
        if self._num_calls > 1:
            raise ConfigurationError(
                "the forward step called its model twice, and the second call would overwrite the keys and "
                "values of the first; call it once, with both batches joined along the batch dimension"
            )
        bound = signature.bind(*args, **kwargs)
        given = bound.arguments
        chunk = self._chunks[self._unit.chunk]
        for name, value in list(given.items()):
            is_rest = signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
            given[name] = self._cut_all(value, chunk) if is_rest else self._cut(name, value, chunk)
        tokens = given.get("input_ids")
        given[_PARAMS] = self._params.params(
            self._unit, given.get(_PARAMS), num_sequences=None if tokens is None else tokens.shape[0]
        )
        return bound.args, bound.kwargs

    def _cut_all(self, values: Mapping[str, Any], chunk: Chunk) -> dict[str, Any]:
        return {name: self._cut(name, value, chunk) for name, value in values.items()}

    def _cut(self, name: str, value: Any, chunk: Chunk) -> Any:
        if name in _UNSERVED and value is not None:
            raise ConfigurationError(
                f"chunked schedules do not serve a model's argument {name}; leave it out"
            )
        if name == "attention_mask":
            return _without_causal(value, chunk, self._chunks[-1].stop)
        if not isinstance(value, torch.Tensor):
            return value
        self._check_shape(name, value)
        return value[:, chunk.start : chunk.stop].contiguous()

    def _check_shape(self, name: str, value: torch.Tensor) -> None:
        seq_length = self._chunks[-1].stop
        if value.dim() < 2 or value.shape[1] != seq_length:
            raise ConfigurationError(
                f"the model was given {name} of shape {list(value.shape)} in a step whose seq_length is "
                f"{seq_length}; it must be [batch, {seq_length}, ...]"
            )
        if name in ("input_ids", "labels") and self._micro_batch_size not in (None, value.shape[0]):
            raise ConfigurationError(
                f"the model was given {name} of {value.shape[0]} sequences in a step whose micro_batch_size "
                f"is {self._micro_batch_size}; they must agree, as stages expect messages of that size"
            )


def _without_causal(mask: torch.Tensor | None, chunk: Chunk, seq_length: int) -> None:
    """None, after refusing a mask (True where masked) that hides anything but later keys.

    Raises:
        ConfigurationError: chunked attention is causal by position and cannot apply it.
    """
    if mask is None:
        return
    is_causal = mask.shape[-2:] == (seq_length, seq_length)
    if is_causal:
        queries = torch.arange(chunk.start, chunk.stop, device=mask.device)
        causal = torch.arange(seq_length, device=mask.device) > queries[:, None]
        is_causal = bool((mask[..., chunk.start : chunk.stop, :].bool() == causal).all())
    if not is_causal:
        raise ConfigurationError(
            f"the batch has an attention mask of shape {list(mask.shape)} that is not the causal one; "
            "chunked attention knows causality by position and takes no other mask: leave it out, and "
            "give packed documents as packed_seq_params with cu_seqlens"
        )
