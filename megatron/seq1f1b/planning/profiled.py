"""Costs fitted to measured times of chunks, as the simulator takes them.

A chunk of n tokens that sees q pairs of query and key costs a virtual stage

    seconds = constant + per_token n + per_pair q

in each direction: launches and messages, matrices, attention. The three are fitted to samples of a
few chunk lengths and prefixes by least squares of the relative error, so that short chunks count as
much as long ones, and none of them is negative.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from megatron.seq1f1b.chunk import Boundaries, Chunk, chunks_from
from megatron.seq1f1b.errors import ConfigurationError
from megatron.seq1f1b.model.flops import causal_pairs
from megatron.seq1f1b.partition import Window
from megatron.seq1f1b.schedule import Costs, Plan


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """Measured seconds of tokens [prefix, prefix + length) on one virtual stage."""

    virtual_stage: int
    length: int
    prefix: int
    forward_seconds: float
    backward_seconds: float
    """Of the whole backward."""
    weight_grad_seconds: float | None = None
    """Of the weight-gradient half alone, where the backward was also measured in halves."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CostLine:
    """Seconds of one kind of action as a line in tokens and pairs."""

    constant_seconds: float
    seconds_per_token: float
    seconds_per_pair: float
    window: Window | None = None
    """Decides which pairs there are."""

    def seconds(self, chunk: Chunk) -> float:
        """Of one chunk."""
        pairs = causal_pairs(chunk.start, chunk.stop, self.window)
        return self.constant_seconds + self.seconds_per_token * chunk.length + self.seconds_per_pair * pairs


@dataclass(frozen=True, kw_only=True, slots=True)
class StageCosts:
    """The lines of one virtual stage."""

    forward: CostLine
    backward: CostLine
    weight_grad: CostLine
    """Never more than the backward; without samples of it, what the forward's tokens cost."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FittedCosts:
    """The lines of every virtual stage, and how well they meet the samples."""

    stages: tuple[StageCosts, ...]
    """By virtual stage over the whole pipeline."""
    worst_relative_error: float
    """Largest |fitted / measured - 1| over all samples, forward and backward."""

    @property
    def window(self) -> Window | None:
        """Of attention, the same on every stage."""
        return self.stages[0].forward.window

    def costs(self, boundaries: Boundaries, *, message_bytes_per_token: float = 0.0) -> Costs:
        """The simulator's tables for one way of cutting the sequence; add a network with `replace`."""
        chunks = chunks_from(boundaries)

        def table(seconds: Callable[[StageCosts, Chunk], float]) -> list[list[float]]:
            return [[seconds(stage, chunk) for chunk in chunks] for stage in self.stages]

        def weight_grad(stage: StageCosts, chunk: Chunk) -> float:
            return min(stage.weight_grad.seconds(chunk), stage.backward.seconds(chunk))

        return Costs(
            forward_seconds=table(lambda stage, chunk: stage.forward.seconds(chunk)),
            backward_seconds=table(lambda stage, chunk: stage.backward.seconds(chunk)),
            input_grad_seconds=table(
                lambda stage, chunk: stage.backward.seconds(chunk) - weight_grad(stage, chunk)
            ),
            weight_grad_seconds=table(weight_grad),
            token_shares=[chunk.length / chunks[-1].stop for chunk in chunks],
            message_bytes=[message_bytes_per_token * chunk.length for chunk in chunks],
        )

    def check(self, plan: Plan) -> None:
        """Refuse a plan with other virtual stages than were measured.

        Raises:
            ConfigurationError: with both numbers.
        """
        if len(self.stages) != plan.num_all_virtual_stages:
            raise ConfigurationError(
                f"costs of {len(self.stages)} virtual stages were measured, but plan {plan.name!r} has "
                f"{plan.num_all_virtual_stages}; measure every virtual stage of this layout"
            )


def fit_costs(samples: Iterable[Sample], *, window: Window | None = None) -> FittedCosts:
    """The lines that fit samples of virtual stages 0 to n-1 best.

    Three samples per stage that differ in length and in prefix tell the three coefficients apart;
    with fewer, as many coefficients as samples are used (pairs last).

    Args:
        samples: of every virtual stage.
        window: of attention, over all layers.

    Raises:
        ConfigurationError: a stage without samples, or a sample with impossible numbers.
    """
    by_stage: dict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        _check_sample(sample)
        by_stage[sample.virtual_stage].append(sample)
    missing = sorted(set(range(max(by_stage, default=0) + 1)) - set(by_stage))
    if missing:
        raise ConfigurationError(
            f"virtual stages {missing} have no measured chunk; measure at least one on each, from stage 0 on"
        )
    stages = tuple(_fit_stage(by_stage[stage], window) for stage in sorted(by_stage))
    errors = [
        abs(fitted / measured - 1.0)
        for stage, costs in enumerate(stages)
        for sample in by_stage[stage]
        for fitted, measured in (
            (costs.forward.seconds(_chunk(sample)), sample.forward_seconds),
            (costs.backward.seconds(_chunk(sample)), sample.backward_seconds),
        )
    ]
    return FittedCosts(stages=stages, worst_relative_error=max(errors))


def _fit_stage(samples: Sequence[Sample], window: Window | None) -> StageCosts:
    forward = _fit_line(samples, [sample.forward_seconds for sample in samples], window)
    backward = _fit_line(samples, [sample.backward_seconds for sample in samples], window)
    halves = [
        (sample, sample.weight_grad_seconds) for sample in samples if sample.weight_grad_seconds is not None
    ]
    if halves:
        measured, seconds = zip(*halves, strict=True)
        weight_grad = _fit_line(measured, seconds, window)
    else:
        # The products of weight gradients are those of the forward; attention has none.
        weight_grad = CostLine(
            constant_seconds=0.0, seconds_per_token=forward.seconds_per_token, seconds_per_pair=0.0
        )
    return StageCosts(forward=forward, backward=backward, weight_grad=weight_grad)


def _fit_line(samples: Sequence[Sample], seconds: Sequence[float], window: Window | None) -> CostLine:
    """Non-negative least squares over every choice of non-zero coefficients: there are seven."""
    terms = [(1.0, float(s.length), causal_pairs(s.prefix, s.prefix + s.length, window)) for s in samples]
    rows = np.array(terms) / np.array(seconds)[:, None]
    # Columns of one size: tokens and pairs differ by many orders of magnitude.
    scale = np.abs(rows).max(axis=0)
    rows, wanted = rows / scale, np.ones(len(terms))
    best, best_error = np.zeros(3), math.inf
    for used in _choices(len(terms)):
        columns = rows[:, used]
        solution, _, rank, _ = np.linalg.lstsq(columns, wanted, rcond=1e-9)
        if rank < len(used) or (solution < 0.0).any():
            continue
        error = float(np.square(columns @ solution - wanted).sum())
        if error < best_error - 1e-15:
            best, best_error = np.zeros(3), error
            best[used] = solution
    constant, per_token, per_pair = (float(value) for value in best / scale)
    return CostLine(
        constant_seconds=constant,
        seconds_per_token=per_token,
        seconds_per_pair=per_pair,
        window=window,
    )


def _choices(num_samples: int) -> list[list[int]]:
    """Coefficients to use together: fewest first, so that more of them must earn their place."""
    order = (1, 0, 2)
    return [
        sorted(choice)
        for count in range(1, min(3, num_samples) + 1)
        for choice in itertools.combinations(order, count)
    ]


def _chunk(sample: Sample) -> Chunk:
    return Chunk(index=0, count=1, start=sample.prefix, stop=sample.prefix + sample.length)


def _check_sample(sample: Sample) -> None:
    times = [sample.forward_seconds, sample.backward_seconds]
    are_times = all(math.isfinite(seconds) and seconds > 0.0 for seconds in times)
    half = sample.weight_grad_seconds
    is_half = half is None or (math.isfinite(half) and half > 0.0)
    if not (are_times and is_half) or sample.length < 1 or sample.prefix < 0 or sample.virtual_stage < 0:
        raise ConfigurationError(
            f"{sample} cannot be fitted; lengths and times must be positive, prefix and virtual "
            "stage at least 0"
        )
