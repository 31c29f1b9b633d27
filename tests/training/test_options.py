"""Options of training under chunked schedules: loss and every gradient of one process without chunks."""

from __future__ import annotations

import pytest
import torch
from megatron.core import parallel_state

from megatron.seq1f1b.config import parse_arguments
from megatron.seq1f1b.training.build import build
from megatron.seq1f1b.training.distributed import join
from megatron.seq1f1b.training.prepare import prepare
from megatron.seq1f1b.training.steps import LOSS, loss_sum
from tests.harness import run_distributed
from tests.parity.layouts import COMMON, GPT2_LIKE, LLAMA_LIKE, largest_difference, run_steps

BATCH = "--global-batch-size 4"
PP2 = "--pipeline-model-parallel-size 2"
FULL = "--recompute-granularity full"
PER_TOKEN = "--calculate-per-token-loss --eod-mask-loss"
CHUNKED = (
    f"{PP2} --pipe-sp-splits 4",
    f"{PP2} --pipe-sp-splits 2 --num-virtual-stages-per-pipeline-rank 2",
    f"{PP2} --pipe-sp-splits 2 --pipeline-schedule seq1f1b-zb",
)
EXACT = {
    "full uniform": f"{FULL} --recompute-method uniform",
    "full block": f"{FULL} --recompute-method block --recompute-num-layers 1",
    "core attention": "--recompute-granularity selective",
    "mlp and norms": "--recompute-granularity selective --recompute-modules mlp core_attn layernorm",
}


def check(shape: str, reference: str, options: str, layouts: tuple[str, ...]) -> None:
    (expected,) = run_distributed(run_steps, 1, (f"{shape} {BATCH} {reference}",), torch.float64)[0]
    flags = tuple(f"{shape} {BATCH} {options} {layout}" for layout in layouts)
    for layout, outcome in zip(layouts, run_distributed(run_steps, 2, flags, torch.float64)[0], strict=True):
        difference, name = largest_difference(outcome, expected)
        assert difference <= 1e-12, f"{name} differs by {difference:.1e} under {options} {layout}"


@pytest.mark.parametrize("case", EXACT)
def test_recomputation_changes_nothing(case: str) -> None:
    check(LLAMA_LIKE, "", EXACT[case], CHUNKED)


def test_recomputation_drops_what_the_forward_dropped() -> None:
    """Whether the backward is split or not."""
    common = f"{LLAMA_LIKE} {BATCH} {CHUNKED[0]}"
    dropout = "--hidden-dropout 0.2"
    flags = tuple(
        f"{common} {extra}"
        for extra in ("", dropout, f"{dropout} {FULL}", f"{dropout} {FULL} --pipeline-schedule seq1f1b-zb")
    )
    whole, dropped, *recomputed = run_distributed(run_steps, 2, flags, torch.float64)[0]
    assert largest_difference(dropped, whole)[0] > 1e-2
    assert all(largest_difference(each, dropped)[0] <= 1e-12 for each in recomputed)


def test_attention_window() -> None:
    window = "--window-size 10,0"
    check(GPT2_LIKE, window, window, CHUNKED[:2])


def test_a_window_changes_the_loss() -> None:
    flags = (f"{LLAMA_LIKE} {BATCH}", f"{LLAMA_LIKE} {BATCH} --window-size 10,0")
    whole, windowed = run_distributed(run_steps, 1, flags, torch.float64)[0]
    assert whole.loss != windowed.loss


def test_documents_change_the_loss() -> None:
    flags = tuple(
        f"{GPT2_LIKE} {BATCH} --pipeline-schedule seq1f1b {options}"
        for options in ("", "--reset-attention-mask", "--reset-position-ids", "--eod-mask-loss")
    )
    outcomes = run_distributed(run_steps, 1, flags, torch.float64)[0]
    assert len({outcome.loss for outcome in outcomes}) == 4


@pytest.mark.parametrize("shape", [GPT2_LIKE, LLAMA_LIKE], ids=["gpt2", "llama"])
def test_packed_documents(shape: str) -> None:
    """Three stages' worth of parts: those in the middle must know those of every microbatch, too."""
    documents = f"--reset-attention-mask --reset-position-ids {PER_TOKEN}"
    check(shape, f"{documents} --pipeline-schedule seq1f1b --micro-batch-size 4", documents, CHUNKED)


def test_the_loss_counts_what_the_mask_counts_up_to_the_last_token() -> None:
    mask = torch.tensor([[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0]])
    total, count, log = loss_sum(mask, torch.arange(1.0, 9.0).view(2, 4))
    assert (total.item(), count.item()) == (1 + 3 + 6 + 7, 4)
    assert log[LOSS].tolist() == [17.0, 4.0]


def test_every_token_of_a_step_counts_alike() -> None:
    """Data-parallel processes and microbatches with unequal counts of tokens: one process's gradients."""
    check(LLAMA_LIKE, f"{PER_TOKEN} --pipeline-schedule 1f1b", PER_TOKEN, (*CHUNKED, "--pipe-sp-splits 2"))


def test_weighing_tokens_alike_changes_the_gradients() -> None:
    flags = tuple(f"{LLAMA_LIKE} {BATCH} {options}" for options in (PER_TOKEN, "--eod-mask-loss"))
    alike, by_microbatch = run_distributed(run_steps, 1, flags, torch.float64)[0]
    assert alike.loss == by_microbatch.loss, "the loss is always the mean over tokens"
    assert largest_difference(alike, by_microbatch)[0] > 1e-4


def weight_decays(flags: str) -> tuple[dict[float, set[int]], list[float]]:
    """By factor of the weight decay the dimensions of its parameters; and the decay after each step."""
    run = prepare(parse_arguments((COMMON + flags).split()), world_size=1)
    join(run.config, run.layout)
    try:
        trained = build(run)
        groups = trained.optimizer.param_groups
        dimensions = {
            factor: {each.dim() for group in groups if group["wd_mult"] == factor for each in group["params"]}
            for factor in {group["wd_mult"] for group in groups}
        }
        decays = []
        for _ in range(5):
            decays.append(max(group["weight_decay"] for group in groups))
            trained.scheduler.step(increment=run.layout.global_batch_size)
        return dimensions, decays
    finally:
        parallel_state.destroy_model_parallel()


def test_weight_decay_is_of_matrices_and_grows_where_asked() -> None:
    grows = "--weight-decay-incr-style linear --start-weight-decay 0.1 --end-weight-decay 0.5"
    (found,) = run_distributed(weight_decays, 1, f"{GPT2_LIKE} {BATCH} {grows}")
    assert found[0] == {0.0: {1}, 1.0: {2}}, "biases and norms have none"
    assert found[1] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
