from __future__ import annotations

import pytest

from megatron.seq1f1b.chunk import Chunk
from megatron.seq1f1b.errors import ConfigurationError
from megatron.seq1f1b.planning.boundaries import best_boundaries
from megatron.seq1f1b.planning.profiled import CostLine, FittedCosts, Sample, fit_costs
from megatron.seq1f1b.schedule import add_communication, make_plan, simulate

SPANS = ((1024, 0), (1024, 3072), (512, 0), (512, 2048), (2048, 0))


def line(constant: float, per_token: float, per_pair: float) -> CostLine:
    return CostLine(constant_seconds=constant, seconds_per_token=per_token, seconds_per_pair=per_pair)


def samples_of(stages: list[tuple[CostLine, CostLine]], *, noise: float = 0.0) -> list[Sample]:
    samples = []
    for stage, (forward, backward) in enumerate(stages):
        for number, (length, prefix) in enumerate(SPANS):
            chunk = Chunk(index=0, count=1, start=prefix, stop=prefix + length)
            factor = 1.0 + noise * (-1) ** number
            samples.append(
                Sample(
                    virtual_stage=stage,
                    length=length,
                    prefix=prefix,
                    forward_seconds=forward.seconds(chunk) * factor,
                    backward_seconds=backward.seconds(chunk) * factor,
                )
            )
    return samples


def pipeline(stages: int, *, head: float = 0.0, noise: float = 0.0) -> FittedCosts:
    """Stages alike but for a head per token on the last one."""
    costs = []
    for stage in range(stages):
        extra = head if stage == stages - 1 else 0.0
        costs.append((line(1e-3, 2e-6 + extra, 4e-10), line(2e-3, 4e-6 + 2 * extra, 1e-9)))
    return fit_costs(samples_of(costs, noise=noise))


def test_coefficients_are_found_again() -> None:
    fitted = pipeline(3, head=1e-6)
    assert fitted.worst_relative_error < 1e-9
    assert fitted.stages[0].forward.constant_seconds == pytest.approx(1e-3)
    assert fitted.stages[2].forward.seconds_per_token == pytest.approx(3e-6)
    assert fitted.stages[1].backward.seconds_per_pair == pytest.approx(1e-9)


def test_noise_gives_no_negative_coefficient() -> None:
    fitted = pipeline(2, noise=0.05)
    assert fitted.worst_relative_error < 0.1
    for stage in fitted.stages:
        for fit in (stage.forward, stage.backward):
            assert min(fit.constant_seconds, fit.seconds_per_token, fit.seconds_per_pair) >= 0.0


def test_one_sample_is_a_cost_per_token() -> None:
    sample = Sample(virtual_stage=0, length=100, prefix=0, forward_seconds=1.0, backward_seconds=2.0)
    fitted = fit_costs([sample])
    assert fitted.stages[0].forward == line(0.0, 0.01, 0.0)
    assert fitted.stages[0].backward.seconds_per_token == pytest.approx(0.02)


def test_measured_weight_gradients_split_the_backward() -> None:
    sample = Sample(
        virtual_stage=0,
        length=100,
        prefix=0,
        forward_seconds=1.0,
        backward_seconds=2.0,
        weight_grad_seconds=0.5,
    )
    costs = fit_costs([sample]).costs((0, 100))
    assert costs.weight_grad_seconds[0][0] == pytest.approx(0.5)
    assert costs.input_grad_seconds[0][0] == pytest.approx(1.5)


def test_a_stage_without_samples_is_refused() -> None:
    sample = Sample(virtual_stage=2, length=1, prefix=0, forward_seconds=1.0, backward_seconds=1.0)
    with pytest.raises(ConfigurationError, match=r"virtual stages \[0, 1\] have no measured chunk"):
        fit_costs([sample])


@pytest.mark.parametrize(
    ("name", "virtual_stages"), [("seq1f1b", 1), ("seq1f1b-zb", 1), ("seq1f1b-interleaved", 2)]
)
def test_the_search_is_no_worse_than_the_closed_form(name: str, virtual_stages: int) -> None:
    plan = make_plan(name, stages=4, microbatches=4, chunks=4, virtual_stages=virtual_stages)
    fitted = pipeline(4 * virtual_stages, head=4e-6)
    choice = best_boundaries(fitted, plan, seq_length=4096, multiple_of=8)
    assert choice.step_seconds <= choice.closed_form_seconds
    assert choice.boundaries[0] == 0
    assert choice.boundaries[-1] == 4096
    assert all(boundary % 8 == 0 for boundary in choice.boundaries)
    costs = fitted.costs(choice.boundaries)
    assert simulate(plan, costs).makespan_seconds == choice.step_seconds
    assert choice == best_boundaries(fitted, plan, seq_length=4096, multiple_of=8)


def test_a_small_search_finds_the_best_of_all_boundaries() -> None:
    plan = make_plan("seq1f1b", stages=3, microbatches=2, chunks=2)
    fitted = pipeline(3, head=4e-6)
    choice = best_boundaries(fitted, plan, seq_length=4096, multiple_of=64)
    every = [simulate(plan, fitted.costs((0, cut, 4096))).makespan_seconds for cut in range(64, 4096, 64)]
    assert choice.step_seconds == pytest.approx(min(every), rel=1e-3)


def test_an_attention_heavy_pipeline_gets_a_shorter_step_than_even_chunks() -> None:
    plan = add_communication(make_plan("seq1f1b", stages=4, microbatches=4, chunks=4))
    fitted = fit_costs(samples_of([(line(0.0, 1e-7, 1e-9), line(0.0, 2e-7, 2.5e-9))] * 4))
    choice = best_boundaries(fitted, plan, seq_length=8192)
    even = simulate(plan, fitted.costs((0, 2048, 4096, 6144, 8192))).makespan_seconds
    assert choice.step_seconds < 0.9 * even


def test_one_chunk_has_nothing_to_search() -> None:
    plan = make_plan("seq1f1b", stages=2, microbatches=2, chunks=1)
    choice = best_boundaries(pipeline(2), plan, seq_length=64)
    assert choice.boundaries == (0, 64)


def test_costs_of_another_layout_are_refused() -> None:
    plan = make_plan("seq1f1b", stages=4, microbatches=2, chunks=2)
    with pytest.raises(ConfigurationError, match="costs of 2 virtual stages were measured, but plan"):
        best_boundaries(pipeline(2), plan, seq_length=64)
