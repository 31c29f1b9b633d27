"""Our plans of 1f1b and interleaved against the functions by which Megatron-Core orders its own."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from megatron.seq1f1b.schedule import ActionKind, make_plan

upstream = pytest.importorskip("megatron.core.pipeline_parallel.schedules")


class Group:
    def __init__(self, size: int, rank: int) -> None:
        self._size, self._rank = size, rank

    def size(self) -> int:
        return self._size

    def rank(self) -> int:
        return self._rank


def num_warmup(stages: int, rank: int, microbatches: int, virtual_stages: int | None) -> int:
    communicator = SimpleNamespace(
        pp_group=Group(stages, rank), virtual_pipeline_model_parallel_size=virtual_stages
    )
    counts = upstream.get_pp_rank_microbatches(
        microbatches, virtual_stages or 1, stages, p2p_communicator=communicator
    )
    return counts[2]


@pytest.mark.parametrize(("stages", "microbatches"), [(2, 2), (2, 8), (4, 4), (4, 12)])
@pytest.mark.parametrize("virtual_stages", [2, 3])
@pytest.mark.parametrize("name", ["interleaved", "seq1f1b-interleaved"])
def test_interleaved_is_upstreams_order(
    name: str, stages: int, microbatches: int, virtual_stages: int
) -> None:
    plan = make_plan(
        name,
        stages=stages,
        microbatches=microbatches,
        chunks=1,
        virtual_stages=virtual_stages,
    )
    table = upstream.get_schedule_table(microbatches, virtual_stages, stages)
    for rank, actions in enumerate(plan.actions):
        forwards = [(a.microbatch, a.virtual_stage // stages) for a in actions if a.kind is ActionKind.F]
        backwards = [(a.microbatch, a.virtual_stage // stages) for a in actions if a.kind is ActionKind.B]
        assert forwards == table
        assert backwards == [(microbatch, virtual_stages - 1 - part) for microbatch, part in table]
        kinds = "".join(action.kind.value for action in actions)
        expected = num_warmup(stages, rank, microbatches, virtual_stages)
        pairs = len(table) - expected
        assert kinds == "F" * expected + "FB" * pairs + "B" * expected


@pytest.mark.parametrize(("stages", "microbatches"), [(2, 1), (4, 2), (4, 9)])
def test_1f1b_has_upstreams_warmup(stages: int, microbatches: int) -> None:
    plan = make_plan("1f1b", stages=stages, microbatches=microbatches, chunks=1)
    for rank, actions in enumerate(plan.actions):
        expected = num_warmup(stages, rank, microbatches, None)
        kinds = "".join(action.kind.value for action in actions)
        assert kinds == "F" * expected + "FB" * (microbatches - expected) + "B" * expected
