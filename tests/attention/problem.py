"""Random attention problems, their exact answer, and the same computed chunk by chunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from megatron.seq1f1b.attention import (
    CachePool,
    DocumentStarts,
    SequenceState,
    choose_backend,
    chunked_attention,
)
from megatron.seq1f1b.chunk import Chunk, chunks_from


@dataclass(kw_only=True)
class Problem:
    """Queries, keys and values of a whole sequence batch, and the gradient of the output.

    All are "sequence batch heads head_dim"; keys and values have `groups` heads.
    """

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    grad_output: torch.Tensor
    window: int | None = None
    document_starts: DocumentStarts | None = None

    @property
    def seq_length(self) -> int:
        return self.query.shape[0]

    @property
    def scale(self) -> float:
        return self.query.shape[-1] ** -0.5


Answer = dict[str, torch.Tensor]
"""Output and gradients: "output", "query", "key", "value"."""


def make_problem(
    *,
    seq_length: int = 37,
    batch: int = 2,
    heads: int = 4,
    groups: int = 4,
    head_dim: int = 8,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
    seed: int = 0,
    window: int | None = None,
    document_starts: DocumentStarts | None = None,
) -> Problem:
    """Normally distributed tensors; the same for a seed on every device."""
    generator = torch.Generator().manual_seed(seed)

    def draw(num_heads: int) -> torch.Tensor:
        shape = (seq_length, batch, num_heads, head_dim)
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)

    return Problem(
        query=draw(heads),
        key=draw(groups),
        value=draw(groups),
        grad_output=draw(heads),
        window=window,
        document_starts=document_starts,
    )


def exact(problem: Problem) -> Answer:
    """By softmax over an explicit mask, differentiated by autograd, in float64."""
    query, key, value = (
        tensor.double().detach().requires_grad_() for tensor in (problem.query, problem.key, problem.value)
    )
    repeat = query.shape[2] // key.shape[2]
    scores = torch.einsum("qbhd,kbhd->bhqk", query, key.repeat_interleave(repeat, 2)) * problem.scale
    weights = scores.masked_fill(~visible(problem)[:, None], float("-inf")).softmax(-1)
    output = torch.einsum("bhqk,kbhd->qbhd", weights, value.repeat_interleave(repeat, 2))
    output.backward(problem.grad_output.double())
    return {"output": output.detach(), "query": query.grad, "key": key.grad, "value": value.grad}


def visible(problem: Problem) -> torch.Tensor:
    """Whether a query sees a key, "batch sequence sequence", pair by pair from the definition."""
    length, batch = problem.query.shape[:2]
    mask = torch.zeros(batch, length, length, dtype=torch.bool)
    for row in range(batch):
        starts = problem.document_starts[row] if problem.document_starts else (0,)
        for query in range(length):
            first = max(start for start in starts if start <= query)
            if problem.window is not None:
                first = max(first, query - problem.window)
            mask[row, query, first : query + 1] = True
    return mask.to(problem.query.device)


def chunked(
    problem: Problem,
    boundaries: Sequence[int],
    *,
    backend: str,
    pool: CachePool | None = None,
) -> Answer:
    """Forward of every chunk in order, then backward of every chunk in reverse order."""
    pool = pool or CachePool()
    chunks = chunks_from(boundaries)
    state = SequenceState(
        pool=pool, seq_length=problem.seq_length, microbatch=0, virtual_stage=0, num_chunks=len(chunks)
    )
    inputs = [chunk_inputs(problem, chunk) for chunk in chunks]
    outputs = [
        attend(problem, chunk, leaves, state=state, backend=backend)
        for chunk, leaves in zip(chunks, inputs, strict=True)
    ]
    for chunk, output in reversed(list(zip(chunks, outputs, strict=True))):
        output.backward(problem.grad_output[chunk.start : chunk.stop])
    state.close()
    pool.assert_empty()
    names = ("query", "key", "value")
    gradients = {name: torch.cat([leaves[at].grad for leaves in inputs]) for at, name in enumerate(names)}
    return {"output": torch.cat([output.detach() for output in outputs]), **gradients}


def chunk_inputs(problem: Problem, chunk: Chunk) -> tuple[torch.Tensor, ...]:
    """The chunk's queries, keys and values as leaves that require gradients."""
    return tuple(
        tensor[chunk.start : chunk.stop].clone().requires_grad_()
        for tensor in (problem.query, problem.key, problem.value)
    )


def attend(
    problem: Problem,
    chunk: Chunk,
    inputs: Sequence[torch.Tensor],
    *,
    state: SequenceState,
    backend: str,
    layer_number: int = 1,
) -> torch.Tensor:
    """One chunk's attention on the problem's terms."""
    query = inputs[0]
    return chunked_attention(
        *inputs,
        cache=state.cache(layer_number),
        chunk=chunk,
        softmax_scale=problem.scale,
        window=problem.window,
        document_starts=problem.document_starts,
        backend=choose_backend(backend, device=query.device, dtype=query.dtype, head_dim=query.shape[-1]),
    )


def assert_close(actual: Answer, expected: Answer, *, tolerance: float) -> None:
    """Every tensor within `tolerance`, relative to the largest entry of the expected one."""
    for name, reference in expected.items():
        scale = reference.abs().max().clamp(min=1e-2)  # a query that sees one key has no gradient
        error = (actual[name].double() - reference).abs().max() / scale
        assert error <= tolerance, f"{name}: relative error {error:.2e} above {tolerance:.0e}"
