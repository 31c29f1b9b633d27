"""Samples per step: always as many, or more and more over the first samples of a run.

    --global-batch-size 32 --rampup-batch-size 8 8 96

    samples so far   0 8 16 24   32 48   64 88   112 144 176 ...
    samples of step  8 8  8  8   16 16   24 24    32  32  32 ...

The growth depends on the samples that were consumed, as `megatron.core.num_microbatches_calculator`
counts them, so that a run that resumes goes on with the size it stopped at.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property

from megatron.seq1f1b.config.sections.training import TrainingOptions
from megatron.seq1f1b.errors import ConfigurationError

_RAMPUP = "--rampup-batch-size"


@dataclass(frozen=True, kw_only=True)
class BatchSizes:
    """The global batch size of every step."""

    full: int
    """After the growth."""
    start: int
    increment: int = 0
    rampup_samples: int = 0
    """Samples over which it grows; 0 for a constant size."""

    def at(self, consumed_samples: int) -> int:
        """The size of the step that begins after so many samples."""
        if not self.rampup_samples or consumed_samples > self.rampup_samples:
            return self.full
        samples_per_size = self.rampup_samples / ((self.full - self.start) // self.increment)
        return self.start + int(consumed_samples / samples_per_size) * self.increment

    @property
    def sizes(self) -> list[int]:
        """Every size that a step may have, ascending."""
        return [*range(self.start, self.full, self.increment or 1), self.full]

    @cached_property
    def _rampup_edges(self) -> list[int]:
        """Consumed samples before each step of the growth, and after its last."""
        edges = [0]
        while self.rampup_samples and edges[-1] <= self.rampup_samples:
            edges.append(edges[-1] + self.at(edges[-1]))
        return edges

    def consumed_after(self, steps: int) -> int:
        """Samples that the first so many steps take."""
        edges = self._rampup_edges
        if steps < len(edges):
            return edges[steps]
        return edges[-1] + (steps - len(edges) + 1) * self.full

    def of_step(self, iteration: int) -> int:
        """The size of a step, counted from 1."""
        return self.consumed_after(iteration) - self.consumed_after(iteration - 1)

    def whole_steps_in(self, samples: int) -> int:
        """Steps that so many samples fill."""
        edges = self._rampup_edges
        if samples < edges[-1]:
            found = bisect_left(edges, samples)
            return found if edges[found] == samples else found - 1
        return len(edges) - 1 + (samples - edges[-1]) // self.full


def batch_sizes_of(training: TrainingOptions, *, data_parallel_size: int) -> BatchSizes:
    """The batch sizes of a run.

    Raises:
        ConfigurationError: a size that microbatches cannot make up, or a growth that misses the full one.
    """
    width = training.micro_batch_size * data_parallel_size
    full = training.global_batch_size or width
    _check_divides(full, training, data_parallel_size, flag=f"--global-batch-size {full}")
    if not training.rampup_batch_size:
        return BatchSizes(full=full, start=full)
    asked = f"{_RAMPUP} {' '.join(map(str, training.rampup_batch_size))}"
    start, increment, samples = _three_numbers(training.rampup_batch_size, asked)
    if training.train_iters is not None:
        raise ConfigurationError(f"{asked} counts samples; give --train-samples instead of --train-iters")
    if start >= full or (full - start) % increment:
        raise ConfigurationError(
            f"{asked} must lead from {start} in steps of {increment} to --global-batch-size {full}, "
            "which it does not; change one of them"
        )
    for size in (start, start + increment):
        _check_divides(size, training, data_parallel_size, flag=f"{asked}: a global batch of {size}")
    return BatchSizes(full=full, start=start, increment=increment, rampup_samples=samples)


def _three_numbers(numbers: list[int], asked: str) -> tuple[int, int, int]:
    if len(numbers) != 3 or min(numbers) < 1:
        raise ConfigurationError(
            f"{asked} must be three numbers from 1 up: first batch size, increment, and samples over "
            "which it grows"
        )
    return numbers[0], numbers[1], numbers[2]


def _check_divides(size: int, training: TrainingOptions, data_parallel_size: int, *, flag: str) -> None:
    width = training.micro_batch_size * data_parallel_size
    if size % width:
        below = size // width * width
        raise ConfigurationError(
            f"{flag} is not divisible by --micro-batch-size {training.micro_batch_size} x "
            f"{data_parallel_size} data-parallel processes = {width}; use "
            f"{f'{below} or ' if below else ''}{below + width}"
        )
