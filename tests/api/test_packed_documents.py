"""Packed documents given as Megatron-Core's `PackedSeqParams`: each is computed as if it were alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.pipeline_parallel.schedules import get_forward_backward_func

from megatron.seq1f1b.errors import ConfigurationError
from megatron.seq1f1b.model.documents import DocumentReader
from tests.api import foreign
from tests.api.foreign import (
    SEQ_LENGTH,
    VOCAB_SIZE,
    Script,
    assert_equal,
    build,
    gradients,
    processes,
    step_of,
)
from tests.harness import run_distributed

LENGTHS = (4, 11, 2, 7)  # borders inside chunks, at one's start, and a document over three of them


def documents() -> list[torch.Tensor]:
    """Tokens and the one after, `[1, length + 1]` each."""
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(VOCAB_SIZE, (1, length + 1), generator=generator) for length in LENGTHS]


def packed(text: list[torch.Tensor], ends: torch.Tensor) -> Any:
    """A forward step for all documents in one sequence."""

    def step(iterator: Iterator[object], model: Any) -> tuple[torch.Tensor, Any]:
        params = PackedSeqParams(qkv_format="thd", cu_seqlens_q=ends, cu_seqlens_kv=ends.clone())
        positions = torch.cat([torch.arange(each.shape[1] - 1) for each in text])[None]
        output = model(
            torch.cat([each[:, :-1] for each in text], dim=1),
            positions,
            None,
            labels=torch.cat([each[:, 1:] for each in text], dim=1),
            packed_seq_params=params,
        )
        return output, lambda losses: (losses.sum(), {"losses": losses.detach()})

    return step


def packed_and_alone(position_embedding: str) -> None:
    text = documents()
    script = Script(microbatches=1, micro_batch_size=1)
    with processes(script):
        parts = build(script, is_chunked=True, position_embedding=position_embedding)
        ends = torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0).tolist(), SEQ_LENGTH], dtype=torch.int32)
        function = foreign.chunked_function(script)
        (log,) = step_of(function, parts, script, forward_step_func=packed(text, ends))
        found = (log["losses"], gradients(parts))

        parts = build(script, is_chunked=False, position_embedding=position_embedding)
        losses, total = [], None
        for each in text:
            step = _alone(each)
            (log,) = step_of(
                get_forward_backward_func(),
                parts,
                script,
                forward_step_func=step,
                seq_length=each.shape[1] - 1,
            )
            losses.append(log["losses"])
            one = gradients(parts)
            total = one if total is None else {name: total[name] + grad for name, grad in one.items()}
    assert_equal(found, (torch.cat(losses, dim=1), total))


def _alone(text: torch.Tensor) -> Any:
    def step(iterator: Iterator[object], model: Any) -> tuple[torch.Tensor, Any]:
        positions = torch.arange(text.shape[1] - 1)[None]
        # Megatron-Core's core attention on the CPU masks only where it is given a mask or is causal.
        output = model(text[:, :-1], positions, None, labels=text[:, 1:])
        return output, lambda losses: (losses.sum(), {"losses": losses.detach()})

    return step


@pytest.mark.parametrize("position_embedding", ["rope", "learned_absolute"])
def test_losses_and_gradients_are_those_of_each_document_alone(position_embedding: str) -> None:
    run_distributed(packed_and_alone, 1, position_embedding)


def read(ends: list[int] | None, *, num_sequences: int = 1, **options: Any) -> object:
    lengths = None if ends is None else torch.tensor(ends, dtype=torch.int32)
    params = PackedSeqParams(qkv_format="thd", cu_seqlens_q=lengths, **options)
    return DocumentReader()(params, seq_length=SEQ_LENGTH, num_sequences=num_sequences)


def test_cumulated_lengths_become_starts() -> None:
    assert read([0, 4, 4, 15, SEQ_LENGTH]) == ((0, 4, 15),)
    assert read([0, 4, 15]) == ((0, 4, 15),), "what is behind the last document is one of its own"
    assert read(None) is None
    padded = torch.tensor([0, 8, SEQ_LENGTH])
    assert read([0, 5, 12], cu_seqlens_q_padded=padded) == ((0, 8),), "documents lie where padding puts them"


@pytest.mark.parametrize(
    ("ends", "options", "message"),
    [
        ([3, 9], {}, "must start at 0"),
        ([0, 9, 5], {}, "not decrease"),
        ([0, 9, 99], {}, "end within seq_length 24"),
        ([0, 9], {"num_sequences": 2}, "came with 2 sequences"),
        ([0, 9], {"local_cp_size": 2}, "context parallelism over 2 ranks"),
        ([0, 9], {"cu_seqlens_kv": torch.tensor([0, 8])}, "cu_seqlens_q and cu_seqlens_kv differ"),
    ],
)
def test_what_cannot_be_packed_is_refused(ends: list[int], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        read(ends, **options)
