"""`profiled` boundaries: every schedule measures its uneven stages once, and compares its prediction.

What is decided by times is tested with a machine of known times.
"""

from __future__ import annotations

import functools
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from megatron.core import parallel_state

from megatron.seq1f1b.chunk import Boundaries
from megatron.seq1f1b.config import parse_arguments
from megatron.seq1f1b.planning.profiled import CostLine, FittedCosts, StageCosts
from megatron.seq1f1b.runtime.timer import TimedActions
from megatron.seq1f1b.schedule import ActionKind, make_plan, plan_to_csv, simulate
from megatron.seq1f1b.training import calibrate, loop
from megatron.seq1f1b.training.build import build
from megatron.seq1f1b.training.datasets import read_data
from megatron.seq1f1b.training.distributed import join
from megatron.seq1f1b.training.prepare import Run, prepare
from tests.harness import run_distributed
from tests.parity.layouts import COMMON, GPT2_LIKE

UNEVEN = "--pipeline-model-parallel-size 2 --decoder-first-pipeline-num-layers"
LAYOUTS = (
    f"{UNEVEN} 1 --pipe-sp-splits 3",
    f"{UNEVEN} 1 --pipe-sp-splits 3 --pipeline-schedule seq1f1b-zb",
    f"{UNEVEN} 2 --num-layers 6 --pipe-sp-splits 3 --num-virtual-stages-per-pipeline-rank 2",
)


def profiled_twice(run_dir: str, flags: str) -> tuple[list[tuple[Boundaries, float | None]], list[str]]:
    """Boundaries and predictions of two starts in one folder, and what was said."""
    words = f"{COMMON} {GPT2_LIKE} {flags} --pipe-sp-strategy profiled".split()
    run = prepare(parse_arguments(words), world_size=dist.get_world_size())
    said: list[str] = []
    join(run.config, run.layout)
    try:
        trained, datasets = build(run), read_data(run)
        with pytest.MonkeyPatch.context() as patch:
            for module in (calibrate, loop):
                patch.setattr(module, "say", said.append)
            starts = [calibrate.profiled(run, trained, datasets.train, Path(run_dir)) for _ in range(2)]
            loop.Loop(starts[0], trained, datasets, run_dir=Path(run_dir)).train()
    finally:
        parallel_state.destroy_model_parallel()
    return [(each.boundaries, each.predicted_step_seconds) for each in starts], said


@pytest.mark.slow
@pytest.mark.parametrize("flags", LAYOUTS)
def test_stages_are_measured_once_and_the_prediction_is_compared(flags: str, tmp_path: Path) -> None:
    found = run_distributed(profiled_twice, 2, str(tmp_path), flags)
    (first, second), said = found[0]
    assert first == second == found[1][0][0], "cached, and equal on every process"
    assert json.loads((tmp_path / "profile.json").read_text())["predicted_step_seconds"] == first[1]
    assert sum("measuring the stages" in line for line in said) == 1
    assert sum("the stages were measured before" in line for line in said) == 1
    assert sum("(median of 3 steps), predicted / measured" in line for line in said) == 1


@pytest.mark.slow
def test_a_profile_that_was_cut_off_is_measured_again(tmp_path: Path) -> None:
    (tmp_path / "profile.json").write_text('{"fingerprint": ')
    (first, second), said = run_distributed(profiled_twice, 2, str(tmp_path), LAYOUTS[0])[0]
    assert first == second
    assert sum("measuring the stages" in line for line in said) == 1


def known_costs(*, head: float) -> FittedCosts:
    """Four stages alike but for a head per token on the last."""

    def line(stage: int, factor: float) -> CostLine:
        per_token = 6e-5 + (head if stage == 3 else 0.0)
        return CostLine(
            constant_seconds=5e-3 * factor,
            seconds_per_token=per_token * factor,
            seconds_per_pair=4e-8 * factor,
        )

    stages = tuple(
        StageCosts(forward=line(stage, 1.0), backward=line(stage, 2.0), weight_grad=line(stage, 1.0))
        for stage in range(4)
    )
    return FittedCosts(stages=stages, worst_relative_error=0.0)


class KnownCut:
    """A `TimedCut` of stages whose costs are known, each action as uneven as told."""

    def __init__(self, costs: FittedCosts, noise: float, boundaries: Boundaries) -> None:
        self.boundaries = boundaries
        self._costs = costs.costs(boundaries)
        self._factor = functools.partial(random.Random(str(boundaries)).uniform, 1.0 - noise, 1.0 + noise)

    def step(self) -> None: ...

    def forget(self) -> None: ...

    def close(self) -> None: ...

    def taken(self) -> list[TimedActions]:
        tables = {ActionKind.F: self._costs.forward_seconds, ActionKind.B: self._costs.backward_seconds}
        return [
            [
                ((kind, stage, chunk), seconds * self._factor())
                for kind, table in tables.items()
                for chunk, seconds in enumerate(table[stage])
            ]
            for stage in range(4)
        ]


def measured(
    costs: FittedCosts, noise: float, patch: pytest.MonkeyPatch
) -> tuple[calibrate.Profile, list[Boundaries]]:
    """The profile of a run on such stages, and which boundaries were timed."""
    flags = (
        "--num-layers 8 --hidden-size 256 --num-attention-heads 4 --seq-length 2048 --vocab-size 511 "
        "--micro-batch-size 1 --global-batch-size 1 --train-iters 1 --lr 1e-4 --mock-data "
        "--tokenizer-type NullTokenizer --position-embedding-type rope "
        "--pipeline-model-parallel-size 4 --pipe-sp-splits 4 --pipe-sp-strategy profiled"
    )
    run = prepare(parse_arguments(flags.split()), world_size=4)
    timed: list[Boundaries] = []

    def cut(_run: Any, boundaries: Boundaries, _trained: Any, _dataset: Any) -> KnownCut:
        timed.append(boundaries)
        return KnownCut(costs, noise, boundaries)

    patch.setattr(calibrate, "TimedCut", cut)
    patch.setattr(calibrate.dist, "broadcast_object_list", lambda told, src: None)
    nothing: Any = None
    return calibrate.measure(run, nothing, nothing), timed


def test_a_heavy_head_moves_the_boundaries_and_the_new_ones_are_timed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    costs = known_costs(head=5e-4)
    profile, timed = measured(costs, 0.03, monkeypatch)
    plan = make_plan("seq1f1b", stages=4, microbatches=1, chunks=4)
    before, after = (
        simulate(plan, costs.costs(boundaries)).makespan_seconds
        for boundaries in (profile.uniform_boundaries, profile.boundaries)
    )
    assert 1.0 - after / before > 0.05
    assert profile.least_gain == pytest.approx(1.0 - after / before, abs=0.03)
    assert "at least" in profile.reason
    assert len(timed) == 4
    assert timed[2] == profile.uniform_boundaries
    assert timed[3] not in timed[:3], "the choice itself"


@pytest.mark.parametrize(("noise", "reason"), [(0.03, "do not save 1%"), (0.9, "too restless")])
def test_what_measurements_cannot_tell_leaves_even_flops(
    noise: float, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile, timed = measured(known_costs(head=0.0), noise, monkeypatch)
    assert profile.boundaries == profile.uniform_boundaries
    assert reason in profile.reason
    assert len(timed) == 2, "nothing to look at twice"


def a_run(extra: str = "") -> Run:
    """Two stages, four microbatches, two chunks that are to be measured."""
    words = f"{COMMON} {GPT2_LIKE} --global-batch-size 4 --pipeline-model-parallel-size 2 --pipe-sp-splits 2"
    return prepare(parse_arguments(f"{words} --pipe-sp-strategy profiled {extra}".split()), world_size=2)


def test_a_plan_file_is_known_by_what_stands_in_it(tmp_path: Path) -> None:
    path = tmp_path / "plan.csv"
    prints = []
    for name in ("seq1f1b", "seq1f1b-zb", "seq1f1b"):
        path.write_text(plan_to_csv(make_plan(name, stages=2, microbatches=4, chunks=2)))
        prints.append(calibrate._fingerprint(a_run(f"--pipeline-schedule {path}")))
    assert prints[0] == prints[2] != prints[1]


A_PROFILE = calibrate.Profile(
    boundaries=(0, 12, 32),
    predicted_step_seconds=1.0,
    uniform_boundaries=(0, 18, 32),
    worst_fit_error=0.1,
    least_gain=0.02,
)


@pytest.mark.parametrize(
    "damage",
    [
        {"boundaries": [0, 8, 8, 24, 32]},
        {"boundaries": [0, 8, 40]},
        {"boundaries": "abc"},
        {"predicted_step_seconds": "x"},
        {"least_gain": None},
    ],
    ids=str,
)
def test_a_profile_that_the_run_cannot_have_is_not_read(damage: dict[str, Any], tmp_path: Path) -> None:
    run, path = a_run(), tmp_path / "profile.json"
    assert calibrate._write(path, run, A_PROFILE) is None
    assert calibrate._read(path, run) == A_PROFILE
    path.write_text(json.dumps(json.loads(path.read_text()) | damage))
    assert calibrate._read(path, run) is None


def test_a_profile_that_cannot_be_kept_is_named(tmp_path: Path) -> None:
    (tmp_path / "profile.json").mkdir()
    assert "profile.json" in (calibrate._write(tmp_path / "profile.json", a_run(), A_PROFILE) or "")
