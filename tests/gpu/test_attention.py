"""Chunked attention on one CUDA device, against float64 softmax attention of the same inputs.

Tolerances are relative to the largest entry. bfloat16 keeps 8 bits: inputs are exact here, outputs
and gradients are rounded once (2^-9), and the kernel rounds softmax weights and score gradients to
bfloat16 before its matrix products, which adds a few units of 2^-8 where few keys share a query's
weight. 2e-2 holds five of them; a misplaced mask, a missing prefix or a gradient counted twice is
wrong by more than 1e-1. float16 keeps 11 bits, an eighth of that error.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from megatron.seq1f1b.attention import CachePool, DocumentStarts, SequenceState, choose_backend
from megatron.seq1f1b.chunk import Chunk, chunks_from
from tests.attention.problem import (
    Problem,
    assert_close,
    attend,
    chunk_inputs,
    chunked,
    exact,
    make_problem,
)

pytestmark = pytest.mark.gpu

SEQ_LENGTH = 1000
BOUNDARIES = {
    "one": (0, SEQ_LENGTH),
    "two": (0, 600, SEQ_LENGTH),
    "four, uneven": (0, 410, 411, 800, SEQ_LENGTH),
}
TOLERANCES = {torch.bfloat16: 2e-2, torch.float16: 2.5e-3}


def cuda_problem(
    *,
    dtype: torch.dtype = torch.bfloat16,
    groups: int = 2,
    batch: int = 2,
    head_dim: int = 64,
    window: int | None = None,
    document_starts: DocumentStarts | None = None,
) -> Problem:
    return make_problem(
        seq_length=SEQ_LENGTH,
        batch=batch,
        heads=4,
        groups=groups,
        head_dim=head_dim,
        dtype=dtype,
        device="cuda",
        window=window,
        document_starts=document_starts,
    )


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("boundaries", BOUNDARIES.values(), ids=BOUNDARIES.keys())
def test_torch_flash_equals_full_attention(
    dtype: torch.dtype, groups: int, boundaries: tuple[int, ...]
) -> None:
    problem = cuda_problem(dtype=dtype, groups=groups)
    answer = chunked(problem, boundaries, backend="torch-flash")
    assert_close(answer, exact(problem), tolerance=TOLERANCES[dtype])


@pytest.mark.parametrize("head_dim", [8, 72, 80, 128, 256])
def test_torch_flash_head_dims(head_dim: int) -> None:
    problem = cuda_problem(head_dim=head_dim)
    assert_close(chunked(problem, (0, 600, 1000), backend="torch-flash"), exact(problem), tolerance=2e-2)


@pytest.mark.parametrize("window", [0, 1, 100, 999])
def test_torch_flash_windows(window: int) -> None:
    problem = cuda_problem(window=window)
    assert_close(chunked(problem, (0, 410, 1000), backend="torch-flash"), exact(problem), tolerance=2e-2)


@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize(
    "documents",
    [((0, 7, 450), (0, 7, 450)), ((0, 410, 999), (0, 300))],
    ids=["alike, crossing", "apart"],
)
def test_torch_flash_packed_documents(documents: DocumentStarts, window: int | None) -> None:
    problem = cuda_problem(document_starts=documents, window=window)
    assert_close(chunked(problem, (0, 410, 1000), backend="torch-flash"), exact(problem), tolerance=2e-2)


@pytest.mark.parametrize("groups", [1, 4])
def test_reference_backend_in_float32(groups: int) -> None:
    assert torch.get_float32_matmul_precision() == "highest", "TF32 keeps 10 bits, too few here"
    problem = cuda_problem(dtype=torch.float32, groups=groups)
    assert_close(chunked(problem, (0, 600, 1000), backend="reference"), exact(problem), tolerance=1e-5)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_recompute_in_autograds_thread(use_reentrant: bool) -> None:
    """On CUDA the recomputed forward runs in a thread of autograd's, without this one's locals."""
    problem = cuda_problem()

    def recompute(run: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> torch.Tensor:
        return checkpoint(run, *inputs, use_reentrant=use_reentrant)

    plain, again = _train(problem, lambda run, *inputs: run(*inputs)), _train(problem, recompute)
    # The kernel's backward adds the queries' gradients in any order; forward has no such freedom.
    for want, have in zip(plain, again, strict=True):
        torch.testing.assert_close(have, want, rtol=0, atol=2e-2)


def _train(problem: Problem, run_layer: Callable[..., torch.Tensor]) -> list[torch.Tensor]:
    chunks, pool = chunks_from((0, 410, 600, SEQ_LENGTH)), CachePool()
    state = SequenceState(pool=pool, seq_length=SEQ_LENGTH, microbatch=0, virtual_stage=0, num_chunks=3)
    leaves = [chunk_inputs(problem, chunk) for chunk in chunks]
    outputs = []
    for chunk, inputs in zip(chunks, leaves, strict=True):

        def run(*inputs: torch.Tensor, chunk: Chunk = chunk) -> torch.Tensor:
            return attend(problem, chunk, inputs, state=state, backend="torch-flash")

        outputs.append(run_layer(run, *inputs))
    for chunk, output in reversed(list(zip(chunks, outputs, strict=True))):
        output.backward(problem.grad_output[chunk.start : chunk.stop])
    pool.assert_empty()
    return [leaf.grad for inputs in leaves for leaf in inputs]


def test_steady_state_allocates_no_buffer() -> None:
    pool = CachePool()
    chunked(cuda_problem(), (0, 600, 1000), backend="torch-flash", pool=pool)
    allocated = pool.num_allocations
    chunked(cuda_problem(), (0, 600, 1000), backend="torch-flash", pool=pool)
    assert pool.num_allocations == allocated


def test_auto_is_torch_flash() -> None:
    assert choose_backend("auto", device="cuda", dtype=torch.bfloat16, head_dim=128).name == "torch-flash"
