"""The losses of small models are those that were written down, whole and in chunks."""

from __future__ import annotations

import json

import pytest

from tests.golden.runs import GOLDEN, MODELS, losses_under

TOLERANCE = 2e-6
"""Relative. Processors differ in the order in which their kernels sum: on one x86-64 machine the kernels for
AVX2, for SSE4 and without either were at most 5e-8 apart, as were one process and chunks; the rest is room
for AVX-512, other BLAS libraries and ARM. A backward that forgets dK of the prefix is 1e-4 off."""
LAYOUTS = {
    "one process": (1, "--pipeline-schedule 1f1b"),
    "two stages, four chunks": (2, "--pipeline-model-parallel-size 2 --pipe-sp-splits 4"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_losses_are_the_golden_ones(layout: str) -> None:
    golden = json.loads(GOLDEN.read_text())
    assert golden.keys() == MODELS.keys()
    world_size, flags = LAYOUTS[layout]
    for name, losses in losses_under(flags, world_size=world_size).items():
        assert losses == pytest.approx(golden[name], rel=TOLERANCE), f"{name}, {layout}"
        assert losses[-1] < 0.97 * losses[0], f"{name} learns"
