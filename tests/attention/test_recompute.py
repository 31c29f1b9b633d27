"""Recomputed forwards: same gradients, no second cache, nothing of another microbatch.

The order is that of a pipeline: forwards of two microbatches, then backwards of each from its last
chunk to its first, every one preceded by its recomputed forward.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from megatron.core import tensor_parallel
from torch.utils.checkpoint import checkpoint as torch_checkpoint

from megatron.seq1f1b.attention import CachePool, SequenceState
from megatron.seq1f1b.chunk import Chunk, chunks_from
from tests.attention.problem import Problem, assert_close, attend, exact, make_problem

CHUNKS = chunks_from((0, 20, 31, 37))
NAMES = ("query", "key", "value")

Run = Callable[..., torch.Tensor]
Recompute = Callable[..., torch.Tensor]


def megatron(run: Run, *inputs: torch.Tensor) -> torch.Tensor:
    return tensor_parallel.checkpoint(run, False, *inputs)


def reentrant(run: Run, *inputs: torch.Tensor) -> torch.Tensor:
    return torch_checkpoint(run, *inputs, use_reentrant=True)


def non_reentrant(run: Run, *inputs: torch.Tensor) -> torch.Tensor:
    return torch_checkpoint(run, *inputs, use_reentrant=False)


RECOMPUTES = [megatron, reentrant, non_reentrant]


@pytest.fixture(autouse=True)
def _no_cuda_generators(monkeypatch: pytest.MonkeyPatch) -> None:
    """Megatron-Core saves and restores the state of CUDA's generator, which may not exist."""
    if not torch.cuda.is_available():
        states = (None, None, None)
        monkeypatch.setattr(tensor_parallel.random, "_get_all_rng_states", lambda: states)
        monkeypatch.setattr(tensor_parallel.random, "_set_all_rng_states", lambda *_: None)
        monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: None)


class Microbatch:
    """A toy layer: queries, keys and values are the input times one weight each."""

    def __init__(self, pool: CachePool, recompute: Recompute, *, seed: int, layers: int) -> None:
        self.problem = make_problem(seed=seed)
        self.inputs = [self._leaf(chunk) for chunk in CHUNKS]
        self.outputs: list[torch.Tensor] = []
        self._recompute = recompute
        self._layers = layers
        self._state = SequenceState(
            pool=pool, seq_length=37, microbatch=seed, virtual_stage=0, num_chunks=len(CHUNKS)
        )

    def _leaf(self, chunk: Chunk) -> torch.Tensor:
        return self.problem.query[chunk.start : chunk.stop].clone().requires_grad_()

    def forward(self, index: int) -> None:
        hidden = self.inputs[index]
        for layer_number in range(1, self._layers + 1):

            def run(hidden: torch.Tensor, layer_number: int = layer_number) -> torch.Tensor:
                projected = [hidden * 0.5, hidden.roll(1, 3), hidden.flip(3)]
                return hidden + attend(
                    self.problem,
                    CHUNKS[index],
                    projected,
                    state=self._state,
                    backend="cpu",
                    layer_number=layer_number,
                )

            hidden = self._recompute(run, hidden)
        self.outputs.append(hidden)

    def backward(self, index: int) -> None:
        chunk = CHUNKS[index]
        self.outputs[index].backward(self.problem.grad_output[chunk.start : chunk.stop])


def plain(run: Run, *inputs: torch.Tensor) -> torch.Tensor:
    return run(*inputs)


def train(recompute: Recompute, *, layers: int) -> tuple[list[torch.Tensor], CachePool]:
    """Gradients of both microbatches' inputs under F0.0-2, F1.0-1, B0.2, F1.2, B0.1, ..., B1.0."""
    pool = CachePool()
    first, second = (Microbatch(pool, recompute, seed=seed, layers=layers) for seed in (1, 2))
    for index in range(3):
        first.forward(index)
    second.forward(0)
    second.forward(1)
    first.backward(2)
    second.forward(2)
    for index in (1, 0):
        first.backward(index)
    for index in (2, 1, 0):
        second.backward(index)
    return [leaf.grad for leaf in (*first.inputs, *second.inputs)], pool


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("recompute", RECOMPUTES)
def test_full_recompute_gives_the_same_gradients(recompute: Recompute, layers: int) -> None:
    expected, _ = train(plain, layers=layers)
    actual, pool = train(recompute, layers=layers)
    for want, have in zip(expected, actual, strict=True):
        torch.testing.assert_close(have, want, rtol=0, atol=0)
    pool.assert_empty()


@pytest.mark.parametrize("recompute", RECOMPUTES)
def test_recompute_allocates_no_further_cache(recompute: Recompute) -> None:
    assert train(recompute, layers=2)[1].num_allocations == train(plain, layers=2)[1].num_allocations


@pytest.mark.parametrize("recompute", RECOMPUTES)
def test_selective_recompute_of_the_core_is_exact(recompute: Recompute) -> None:
    problem = make_problem(groups=2)
    answer = _selective(problem, recompute)
    assert_close(answer, exact(problem), tolerance=1e-12)


def _selective(problem: Problem, recompute: Recompute) -> dict[str, torch.Tensor]:
    pool = CachePool()
    state = SequenceState(pool=pool, seq_length=37, microbatch=0, virtual_stage=0, num_chunks=3)
    leaves, outputs = [], []
    for chunk in CHUNKS:
        inputs = [getattr(problem, name)[chunk.start : chunk.stop].clone().requires_grad_() for name in NAMES]

        def run(*inputs: torch.Tensor, chunk: Chunk = chunk) -> torch.Tensor:
            return attend(problem, chunk, inputs, state=state, backend="cpu")

        leaves.append(inputs)
        outputs.append(recompute(run, *inputs))
    for chunk, output in reversed(list(zip(CHUNKS, outputs, strict=True))):
        output.backward(problem.grad_output[chunk.start : chunk.stop])
    pool.assert_empty()
    answer = {"output": torch.cat([output.detach() for output in outputs])}
    return answer | {name: torch.cat([leaf[at].grad for leaf in leaves]) for at, name in enumerate(NAMES)}
