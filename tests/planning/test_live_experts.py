"""Live bytes of a real step with experts beside the estimate, which takes them to be balanced."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from megatron.core import parallel_state

from megatron.seq1f1b.config import parse_arguments
from megatron.seq1f1b.planning.from_run import estimate_run, memory_of
from megatron.seq1f1b.planning.live_bytes import LiveBytes
from megatron.seq1f1b.training import steps
from megatron.seq1f1b.training.build import Trained, build
from megatron.seq1f1b.training.distributed import join
from megatron.seq1f1b.training.prepare import prepare
from tests.harness import run_distributed
from tests.parity.layouts import COMMON, training_data

# LayerNorm: what torch keeps of RMSNorm on a CPU is more than on a GPU, which is what is estimated.
MODEL = (
    "--num-layers 2 --hidden-size 128 --num-attention-heads 4 --seq-length 1024 --vocab-size 127 --swiglu "
    "--position-embedding-type rope --disable-bias-linear --pipe-sp-splits 4 "
    "--num-experts 8 --moe-ffn-hidden-size 128 --moe-aux-loss-coeff 0.01 "
)
LAST_FORWARD = "0F0.3"


def held_after_all_forwards(flags: str) -> tuple[float, float]:
    """Of one microbatch: (counted by storage in a real step, estimated)."""
    run = prepare(parse_arguments((COMMON + MODEL + flags).split()), world_size=dist.get_world_size())
    join(run.config, run.layout)
    try:
        counted = _counted(build(run, params_dtype=torch.float32), run)
    finally:
        parallel_state.destroy_model_parallel()
    (stage,) = estimate_run(run).stages
    memory = memory_of(run.config, run.layout, run.dimensions)
    length = run.boundaries[-1] - run.boundaries[-2]
    going = memory.head_forward_temporary_bytes(length) + stage.dkv_bytes
    return counted, stage.by_action[LAST_FORWARD] - going


def _counted(trained: Trained, run: steps.Run) -> float:
    live = LiveBytes(lambda tensor: False)
    counts: list[int] = []
    for part in trained.parts:
        for tensor in (
            *part.parameters(),
            *torch.nn.Module.buffers(part),
            *(p.main_grad for p in part.parameters()),
        ):
            live.ignore(tensor)
    plain = torch.autograd.backward

    def backward(*args: object, **keywords: object) -> None:
        counts.append(sum(live.live.values()))
        plain(*args, **keywords)

    iterators = steps.data_iterators(run, training_data(run, num_samples=8))
    with pytest.MonkeyPatch.context() as patch, live:
        patch.setattr(torch.autograd, "backward", backward)
        steps.gradients(run, trained, steps.make_forward_backward(run), iterators)
    return counts[0]


@pytest.mark.slow
def test_a_rank_with_all_experts_holds_what_is_estimated_however_tokens_are_routed() -> None:
    ((counted, estimated),) = run_distributed(held_after_all_forwards, 1, "--global-batch-size 1")
    assert estimated == pytest.approx(counted, rel=0.02)


@pytest.mark.slow
def test_ranks_that_share_experts_hold_it_together_and_each_nearly() -> None:
    """Routers that have learned nothing send some ranks more than others."""
    flags = "--global-batch-size 2 --expert-model-parallel-size 2 --moe-token-dispatcher-type alltoall"
    pairs = run_distributed(held_after_all_forwards, 2, flags)
    counted, estimated = (sum(column) for column in zip(*pairs, strict=True))
    assert estimated == pytest.approx(counted, rel=0.02)
    for own, expected in pairs:
        assert expected == pytest.approx(own, rel=0.25)
