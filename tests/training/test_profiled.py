"""`profiled` boundaries: every schedule measures its uneven stages once, and compares its prediction."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch.distributed as dist
from megatron.core import parallel_state

from megatron.seq1f1b.chunk import Boundaries
from megatron.seq1f1b.config import parse_arguments
from megatron.seq1f1b.training import calibrate, loop
from megatron.seq1f1b.training.build import build
from megatron.seq1f1b.training.datasets import read_data
from megatron.seq1f1b.training.distributed import join
from megatron.seq1f1b.training.prepare import prepare
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
