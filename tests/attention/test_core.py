"""`ChunkedCoreAttention` at Megatron-Core's seam: chunked, whole, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_config import TransformerConfig

from megatron.seq1f1b.attention import CachePool, ChunkedCoreAttention, ChunkSeqParams, SequenceState
from megatron.seq1f1b.chunk import chunks_from
from megatron.seq1f1b.errors import BackendError
from tests.attention.problem import Answer, Problem, assert_close, chunk_inputs, exact, make_problem

CHUNKS = chunks_from((0, 20, 31, 37))


def make_core(*, mask_type: AttnMaskType = AttnMaskType.causal, **overrides: Any) -> ChunkedCoreAttention:
    settings = {"attention_dropout": 0.0, "num_query_groups": 2} | overrides
    config = TransformerConfig(num_layers=1, hidden_size=32, num_attention_heads=4, **settings)
    return ChunkedCoreAttention(config, 1, mask_type, "self")


def run_whole(core: ChunkedCoreAttention, problem: Problem) -> Answer:
    leaves = chunk_inputs(problem, chunks_from((0, problem.seq_length))[0])
    output = core(*leaves, None)
    output.backward(problem.grad_output.flatten(2))
    gradients = {name: leaf.grad for name, leaf in zip(("query", "key", "value"), leaves, strict=True)}
    return {"output": output.detach().view(problem.query.shape), **gradients}


def test_whole_sequence_without_chunk_parameters() -> None:
    problem = make_problem(groups=2)
    assert_close(run_whole(make_core(), problem), exact(problem), tolerance=1e-12)


def test_chunks_give_what_the_whole_sequence_gives() -> None:
    problem, core, pool = make_problem(groups=2), make_core(), CachePool()
    state = SequenceState(pool=pool, seq_length=37, microbatch=0, virtual_stage=0, num_chunks=3)
    inputs = [chunk_inputs(problem, chunk) for chunk in CHUNKS]
    outputs = [
        core(*leaves, None, packed_seq_params=ChunkSeqParams(chunk=chunk, state=state))
        for chunk, leaves in zip(CHUNKS, inputs, strict=True)
    ]
    for chunk, output in reversed(list(zip(CHUNKS, outputs, strict=True))):
        output.backward(problem.grad_output[chunk.start : chunk.stop].flatten(2))
    answer = {"output": torch.cat([output.detach() for output in outputs]).view(problem.query.shape)}
    for at, name in enumerate(("query", "key", "value")):
        answer[name] = torch.cat([leaves[at].grad for leaves in inputs])
    assert_close(answer, exact(problem), tolerance=1e-12)
    pool.assert_empty()


def test_chunk_parameters_pass_as_sequence_first() -> None:
    state = SequenceState(pool=CachePool(), seq_length=37, microbatch=0, virtual_stage=0, num_chunks=3)
    params = ChunkSeqParams(chunk=CHUNKS[0], state=state)
    assert isinstance(params, PackedSeqParams)
    assert params.qkv_format == "sbhd"
    assert params.cp_group is None


def test_softmax_scale_of_the_seam_is_used() -> None:
    problem = make_problem(groups=2)
    core = ChunkedCoreAttention(make_core().config, 1, AttnMaskType.causal, "self", softmax_scale=0.5)
    rescaled = make_problem(groups=2)
    rescaled.query = problem.query * (problem.scale / 0.5)
    assert_close(
        {"output": run_whole(core, rescaled)["output"]},
        {"output": exact(problem)["output"]},
        tolerance=1e-12,
    )


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        ({"mask_type": AttnMaskType.no_mask}, "mask type 'no_mask'"),
        ({"window_size": (8, 4)}, "--window-size 8,4"),
        ({"softmax_type": "off-by-one"}, "softmax_type"),
        ({"qk_clip": True}, "qk_clip"),
    ],
)
def test_refuses_a_configuration_by_name(overrides: dict[str, object], names: str) -> None:
    with pytest.raises(BackendError, match=names):
        make_core(**overrides)


def test_refuses_dropout_by_name() -> None:
    with pytest.raises(BackendError, match="dropout"):
        run_whole(make_core(attention_dropout=0.1), make_problem(groups=2))


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"attention_mask": torch.zeros(1, 1, 37, 37, dtype=torch.bool)}, "attention mask of shape"),
        ({"attention_bias": torch.zeros(1)}, "attention bias"),
        ({"attn_mask_type": AttnMaskType.no_mask}, "mask type 'no_mask'"),
        ({"packed_seq_params": PackedSeqParams(qkv_format="thd")}, "'thd'"),
    ],
)
def test_refuses_an_argument_by_name(arguments: dict[str, object], names: str) -> None:
    problem = make_problem(groups=2)
    call = {"attention_mask": None} | arguments
    with pytest.raises(BackendError, match=names):
        make_core()(problem.query, problem.key, problem.value, call.pop("attention_mask"), **call)
