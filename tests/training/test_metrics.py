"""What a step says of itself: the same figures under every layout, and counts over steps."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from statistics import fmean

import pytest

from megatron.seq1f1b.training.metrics import StepMetrics
from megatron.seq1f1b.training.reporting.progress import History, Progress
from tests.harness import run_distributed
from tests.training.runs import rows_of, train_each

NORMED = "--global-batch-size 4 --train-iters 3 --lr 1e-2 --log-params-norm --log-num-zeros-in-grad"
PP2 = "--pipeline-model-parallel-size 2 --pipe-sp-splits 2"
TP2 = "--tensor-model-parallel-size 2"
LAYOUTS = {
    2: (
        f"{PP2} --pipe-sp-splits 2",
        f"{TP2} --sequence-parallel --pipe-sp-splits 2",
        "--use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather",
        f"{PP2} --num-virtual-stages-per-pipeline-rank 2 --bf16",
    ),
    4: (f"{PP2} {TP2} --use-distributed-optimizer",),
}


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_the_parameter_norm_is_that_of_one_process(size: int, tmp_path: Path) -> None:
    """Tied embeddings, padded vocabularies, replicated norms and sharded states count once."""
    run_distributed(train_each, 1, ((f"{NORMED} --pipeline-schedule 1f1b", str(tmp_path / "one")),))
    expected = [row["param_norm"] for row in rows_of(tmp_path / "one")]
    assert len(set(expected)) == 3, "it changes with every update"
    runs = tuple(
        (f"{NORMED} {flags}", str(tmp_path / str(number))) for number, flags in enumerate(LAYOUTS[size])
    )
    run_distributed(train_each, size, runs)
    for flags, run_dir in runs:
        rows, tolerance = rows_of(run_dir), 1e-3 if "bf16" in flags else 1e-6
        assert [row["param_norm"] for row in rows] == pytest.approx(expected, rel=tolerance), flags
        assert all(isinstance(row["num_zeros_in_grad"], int) for row in rows)


def test_phases_and_waits_are_parts_of_the_step(tmp_path: Path) -> None:
    run_distributed(train_each, 2, ((f"--global-batch-size 4 {PP2}", str(tmp_path)),))
    for row in rows_of(tmp_path):
        phases = row["forward_backward_seconds"], row["optimizer_seconds"]
        assert min(phases) > 0
        assert max(phases) <= row["step_seconds"]
        assert 0 < row["data_wait_seconds"] < row["forward_backward_seconds"]
        assert (row["param_norm"], row["num_zeros_in_grad"], row["mfu"]) == (None, None, None)


def test_skipped_steps_are_counted_through_a_resume(tmp_path: Path) -> None:
    """Loss scales of 2^21 and 2^20 overflow float16 here, and 2^19 does not."""
    flags = f"--global-batch-size 4 --fp16 --initial-loss-scale {2.0**21} --hysteresis 1 {PP2}"
    save, run = str(tmp_path / "save"), str(tmp_path / "run")
    runs = (
        (f"{flags} --train-iters 3 --lr-decay-iters 6 --save {save}", run),
        (f"{flags} --train-iters 5 --lr-decay-iters 6 --load {save}", run),
    )
    run_distributed(train_each, 2, runs)
    rows = rows_of(run)
    assert [row["is_skipped"] for row in rows] == [True, True, False, False, False]
    assert [row["skipped_steps"] for row in rows] == [1, 2, 2, 2, 2]
    assert [row["loss_scale"] for row in rows] == [2.0**power for power in (21, 20, 19, 19, 19)]
    rates = [row["learning_rate"] for row in rows]
    assert rates[0] == rates[1] == rates[2] > rates[3], "no update, no progress"


@pytest.mark.parametrize("flags", [PP2, "--use-distributed-optimizer"], ids=["plain", "distributed"])
def test_a_run_whose_steps_were_all_skipped_resumes(flags: str, tmp_path: Path) -> None:
    """Its optimizer has no moments yet."""
    flags = f"--global-batch-size 4 --fp16 --initial-loss-scale {2.0**40} --hysteresis 1 {flags}"
    save, run = str(tmp_path / "save"), str(tmp_path / "run")
    runs = (
        (f"{flags} --train-iters 2 --lr-decay-iters 4 --save {save}", run),
        (f"{flags} --train-iters 4 --lr-decay-iters 4 --load {save}", run),
    )
    run_distributed(train_each, 2, runs)
    assert [row["skipped_steps"] for row in rows_of(run)] == [1, 2, 3, 4]
    assert [row["loss_scale"] for row in rows_of(run)] == [2.0**power for power in (40, 39, 38, 37)]


STEP = StepMetrics(
    iteration=1,
    consumed_samples=4,
    consumed_tokens=128,
    batch_size=4,
    lm_loss=2.0,
    grad_norm=0.5,
    param_norm=None,
    num_zeros_in_grad=None,
    learning_rate=1e-3,
    loss_scale=1.0,
    is_skipped=False,
    step_seconds=1.0,
    forward_backward_seconds=0.75,
    optimizer_seconds=0.25,
    data_wait_seconds=0.0,
    tokens_per_second=128.0,
    tflops_per_device=2.0,
    mfu=0.5,
    peak_memory_bytes=[2**30, 2**31],
)


def with_losses(losses: list[float]) -> list[StepMetrics]:
    numbered = enumerate(losses, start=1)
    return [dataclasses.replace(STEP, iteration=number, lm_loss=loss) for number, loss in numbered]


def test_a_spike_is_far_above_what_was_before() -> None:
    losses = [2.0 + 0.01 * (step % 3) for step in range(20)]
    history = History()
    judged = [history.judged(step) for step in with_losses([*losses, 2.04, 2.5, 2.0, float("nan")])]
    assert [step.iteration for step in judged if step.is_spike] == [22, 24]
    assert judged[-1].loss_spikes == 2
    resumed = History([dataclasses.asdict(step) for step in judged[:20]])
    assert resumed.judged(with_losses([2.5])[0]).is_spike
    assert not History().judged(with_losses([1e9])[0]).is_spike, "nothing to compare with"


def test_the_line_is_about_the_steps_since_the_last_one() -> None:
    progress = Progress(train_iters=10)
    for step in with_losses([2.0, 3.0, 4.0]):
        progress.add(step)
    slow = dataclasses.replace(
        STEP, iteration=4, step_seconds=3.0, tokens_per_second=128 / 3, tflops_per_device=2 / 3, mfu=1 / 6
    )
    assert progress.line().startswith("step  3/10 | loss 3.0000 | grad norm 0.500 | lr 1.00e-03 | 1.00 s | ")
    progress.add(dataclasses.replace(slow, is_skipped=True, skipped_steps=7, validation_loss=1.5))
    progress.add(dataclasses.replace(STEP, iteration=5, mfu=0.5, skipped_steps=7))
    line = progress.line()
    assert "step  5/10 | loss 2.0000 | grad norm 0.500" in line
    assert "| 2.00 s | 64 tokens/s | 1 TFLOP/s/device | MFU 25.0% | memory 2.00 GiB (stage 1)" in line
    assert "skipped 1 (gradients not finite), 7 in all" in line
    assert line.endswith("ETA 0:00:07")


EXPERTS = (
    "--global-batch-size 4 --train-iters 2 --lr 1e-2 --disable-bias-linear --num-experts 4 "
    "--moe-aux-loss-coeff 0.1 --moe-z-loss-coeff 0.01 --moe-per-layer-logging"
)
PER_SEQUENCE = f"{EXPERTS} --moe-router-load-balancing-type seq_aux_loss --micro-batch-size 2"
OF_EXPERTS = ("load_balancing_loss", "seq_load_balancing_loss", "z_loss")
CHUNKED_EXPERTS = {
    2: (
        (EXPERTS, f"{PP2} --pipe-sp-splits 4"),
        (EXPERTS, "--expert-model-parallel-size 2 --pipe-sp-splits 3"),
        (PER_SEQUENCE, f"{PP2} --num-virtual-stages-per-pipeline-rank 2 --recompute-granularity full"),
        (EXPERTS, f"{PP2} --pipe-sp-splits 1 --pipeline-schedule 1f1b"),
    ),
    4: (
        (EXPERTS, f"{PP2} {TP2} --sequence-parallel --pipe-sp-splits 4 --pipeline-schedule seq1f1b-zb"),
        (EXPERTS, f"{PP2} {TP2} --sequence-parallel --pipe-sp-splits 1 --pipeline-schedule 1f1b"),
        (PER_SEQUENCE, f"{PP2} {TP2} --sequence-parallel --pipe-sp-splits 2"),
    ),
}


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_auxiliary_losses_are_those_of_whole_sequences_on_one_process(size: int, tmp_path: Path) -> None:
    whole = {model: str(tmp_path / str(number)) for number, model in enumerate((EXPERTS, PER_SEQUENCE))}
    run_distributed(
        train_each, 1, tuple((f"{model} --pipeline-schedule 1f1b", at) for model, at in whole.items())
    )
    runs = tuple(
        (f"{model} {layout}", str(tmp_path / f"chunked {number}"))
        for number, (model, layout) in enumerate(CHUNKED_EXPERTS[size])
    )
    run_distributed(train_each, size, runs)
    for (model, layout), (_, run_dir) in zip(CHUNKED_EXPERTS[size], runs, strict=True):
        for row, expected in zip(rows_of(run_dir), rows_of(whole[model]), strict=True):
            for name in OF_EXPERTS:
                if name == ("load_balancing_loss" if model == PER_SEQUENCE else "seq_load_balancing_loss"):
                    assert row[name] is None
                else:
                    assert row[name] == pytest.approx(expected[name], rel=1e-5), (name, layout)
                    assert expected[name] > 0
                    layers, alone = (each["auxiliary_losses_by_layer"][name] for each in (row, expected))
                    assert layers == pytest.approx(alone, rel=1e-4), (name, layout)
                    assert row[name] == pytest.approx(fmean(layers))
