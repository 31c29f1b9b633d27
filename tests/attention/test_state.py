"""Pool, cache and sequence state: what is held when, and what an error names."""

from __future__ import annotations

import pytest
import torch

from megatron.seq1f1b.attention import CachePool, SequenceState
from megatron.seq1f1b.chunk import chunks_from
from megatron.seq1f1b.errors import StepError
from tests.attention.problem import attend, chunk_inputs, make_problem

CHUNKS = chunks_from((0, 20, 31, 37))


def make_state(pool: CachePool, *, microbatch: int = 0) -> SequenceState:
    return SequenceState(
        pool=pool, seq_length=37, microbatch=microbatch, virtual_stage=1, num_chunks=len(CHUNKS)
    )


def forward(state: SequenceState, index: int, *, layer_number: int = 1) -> torch.Tensor:
    problem = make_problem()
    inputs = chunk_inputs(problem, CHUNKS[index])
    return attend(problem, CHUNKS[index], inputs, state=state, backend="cpu", layer_number=layer_number)


def test_buffers_return_when_the_first_chunks_backward_ran() -> None:
    pool = CachePool()
    state = make_state(pool)
    outputs = [forward(state, index) for index in range(3)]
    rows = 2 * 2 * 4 * 8 * 8  # keys and values x batch x groups x head_dim x bytes
    assert pool.live_bytes == 37 * rows
    outputs[2].sum().backward()
    assert pool.live_bytes == (37 + 31) * rows
    outputs[1].sum().backward()
    outputs[0].sum().backward()
    pool.assert_empty()


def test_layers_have_caches_of_their_own() -> None:
    pool = CachePool()
    state = make_state(pool)
    forward(state, 0, layer_number=1)
    forward(state, 0, layer_number=2)
    assert pool.num_outstanding == 2
    state.close()
    pool.assert_empty()


def test_evaluation_keeps_the_cache_until_close_and_nothing_else() -> None:
    pool = CachePool()
    state = make_state(pool)
    with torch.no_grad():
        outputs = [forward(state, index) for index in range(3)]
    assert not any(output.requires_grad for output in outputs)
    assert pool.num_outstanding == 1
    state.close()
    state.close()
    pool.assert_empty()


def test_a_single_chunk_takes_nothing_from_the_pool() -> None:
    pool, problem = CachePool(), make_problem()
    (chunk,) = chunks_from((0, 37))
    state = SequenceState(pool=pool, seq_length=37, microbatch=0, virtual_stage=0, num_chunks=1)
    output = attend(problem, chunk, chunk_inputs(problem, chunk), state=state, backend="cpu")
    output.sum().backward()
    assert pool.num_allocations == 0


def test_low_precision_gradients_accumulate_in_float32() -> None:
    pool, problem = CachePool(), make_problem(dtype=torch.bfloat16)
    state = make_state(pool)
    outputs = [
        attend(problem, chunk, chunk_inputs(problem, chunk), state=state, backend="cpu") for chunk in CHUNKS
    ]
    assert pool.live_bytes == 37 * 2 * 2 * 4 * 8 * 2
    outputs[2].sum().backward()
    assert pool.live_bytes == 37 * 2 * 2 * 4 * 8 * 2 + 31 * 2 * 2 * 4 * 8 * 4


def test_an_outstanding_buffer_is_named() -> None:
    pool = CachePool()
    forward(make_state(pool, microbatch=5), 0, layer_number=3)
    with pytest.raises(StepError, match="virtual stage 1, microbatch 5, layer 3 keys and values"):
        pool.assert_empty()


def test_a_missing_prefix_is_refused() -> None:
    with pytest.raises(StepError, match=r"chunk 2 writes rows \[31, 37\) of 37, but only \[0, 20\)"):
        state = make_state(CachePool())
        forward(state, 0)
        forward(state, 2)


def test_backwards_out_of_order_are_refused() -> None:
    state = make_state(CachePool())
    outputs = [forward(state, index) for index in range(3)]
    with pytest.raises(StepError, match="backward of chunk 1 where chunk 2 is due"):
        outputs[1].sum().backward()


def test_backward_after_close_is_refused() -> None:
    state = make_state(CachePool())
    outputs = [forward(state, index) for index in range(3)]
    state.close()
    with pytest.raises(StepError, match="closed before its backward"):
        outputs[2].sum().backward()


def test_forward_after_close_is_refused() -> None:
    state = make_state(CachePool())
    state.close()
    with pytest.raises(StepError, match="layer 1 runs after the state closed"):
        forward(state, 0)


def test_a_pool_takes_back_only_what_it_lent() -> None:
    with pytest.raises(StepError, match="not lent"):
        CachePool().give(torch.empty(3))


def test_trim_gives_up_free_buffers() -> None:
    pool = CachePool()
    buffer = pool.take((4,), dtype=torch.float32, device=torch.device("cpu"), purpose="test")
    pool.give(buffer)
    assert (pool.live_bytes, pool.free_bytes) == (0, 16)
    pool.trim()
    assert pool.free_bytes == 0


def test_a_buffer_allocated_in_inference_mode_serves_training_later() -> None:
    pool = CachePool()
    with torch.inference_mode():
        pool.give(pool.take((4,), dtype=torch.float32, device=torch.device("cpu"), purpose="test"))
    pool.take((4,), dtype=torch.float32, device=torch.device("cpu"), purpose="test").zero_()
