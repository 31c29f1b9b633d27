"""The sizes that follow from the options and the number of processes."""

from __future__ import annotations

from dataclasses import dataclass

from megatron.seq1f1b.config.activation import Activation
from megatron.seq1f1b.config.batch_sizes import BatchSizes
from megatron.seq1f1b.config.learning_rate import LearningRate
from megatron.seq1f1b.config.recompute import Recompute
from megatron.seq1f1b.schedule import is_plan_file

UPSTREAM_SCHEDULES = ("1f1b", "interleaved")
"""Schedules that are Megatron-Core's own functions."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Everything derived by arithmetic alone."""

    schedule: str
    """A schedule's name, or the path of a plan as CSV."""
    world_size: int
    data_parallel_size: int
    num_virtual_stages: int
    """v, model parts per pipeline rank."""
    layers_of_virtual_stages: tuple[int, ...]
    """Layers of virtual stages 0 to p v - 1."""
    num_microbatches: int
    """m, per step and data-parallel rank; with --rampup-batch-size of the steps after it."""
    global_batch_size: int
    """Samples per step; with --rampup-batch-size of the steps after it."""
    batch_sizes: BatchSizes
    """Samples of every step."""
    train_iters: int
    """Steps of the whole run."""
    learning_rate: LearningRate
    recompute: Recompute
    window_size: tuple[int, int] | None
    ffn_hidden_size: int
    activation: Activation
    kv_channels: int
    num_query_groups: int
    max_position_embeddings: int

    def num_microbatches_of(self, batch_size: int) -> int:
        """Microbatches of a step of so many samples, per data-parallel rank."""
        return batch_size * self.num_microbatches // self.global_batch_size

    @property
    def uses_upstream_schedule(self) -> bool:
        """Whether Megatron-Core's own schedule function runs."""
        return self.schedule in UPSTREAM_SCHEDULES

    @property
    def uses_plan_file(self) -> bool:
        """Whether the schedule is a plan read from a file."""
        return is_plan_file(self.schedule)
