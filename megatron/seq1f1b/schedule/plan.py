"""The plan: for every pipeline rank, the list of actions that it executes, in order.

Executor, validator, simulator, grid and CSV all read this one value, and nothing else decides what
runs next. Virtual stage s lives on pipeline rank s mod p as that rank's model part s // p.
"""

from __future__ import annotations

from dataclasses import dataclass

from megatron.seq1f1b.schedule.action import Action, ActionKind


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The action lists of all pipeline ranks; `validate_plan` says whether they can run.

    With `forward_only` the plan is an evaluation: forwards alone, no activations kept.
    """

    name: str
    """The schedule the plan was made by, or what its author calls it."""
    num_stages: int
    """p, the number of pipeline ranks."""
    num_microbatches: int
    """m, per step and data-parallel rank."""
    num_chunks: int
    """k, chunks of every microbatch's sequence."""
    num_virtual_stages: int = 1
    """v, model parts per pipeline rank."""
    forward_only: bool = False
    actions: tuple[tuple[Action, ...], ...]
    """One list per pipeline rank."""

    @property
    def num_all_virtual_stages(self) -> int:
        """Virtual stages of the whole pipeline, p v."""
        return self.num_stages * self.num_virtual_stages

    @property
    def first_virtual_stage(self) -> int:
        """The virtual stage that holds the embedding."""
        return 0

    @property
    def last_virtual_stage(self) -> int:
        """The virtual stage that computes the loss."""
        return self.num_stages * self.num_virtual_stages - 1

    @property
    def has_communication(self) -> bool:
        """Whether any rank sends or receives explicitly."""
        return any(not kind.is_compute for kind in self.kinds)

    @property
    def kinds(self) -> frozenset[ActionKind]:
        """The kinds of action that occur in the plan."""
        return frozenset({kind for actions in self.actions for kind, _, _, _ in actions})

    def rank_of(self, virtual_stage: int) -> int:
        """The pipeline rank on which a virtual stage lives."""
        return virtual_stage % self.num_stages

    def model_part_of(self, virtual_stage: int) -> int:
        """Which of its rank's v model parts a virtual stage is, from 0."""
        return virtual_stage // self.num_stages
