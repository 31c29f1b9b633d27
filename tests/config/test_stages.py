"""Layers over virtual stages, even and uneven."""

from __future__ import annotations

import pytest

from megatron.seq1f1b.config import parse_arguments, validate
from megatron.seq1f1b.errors import ConfigurationError
from tests.config.flags import words

FIRST, LAST = "--decoder-first-pipeline-num-layers", "--decoder-last-pipeline-num-layers"
STAGES = "--pipeline-model-parallel-size"
PER_PART, PARTS = "--num-layers-per-virtual-pipeline-stage", "--num-virtual-stages-per-pipeline-rank"


@pytest.mark.parametrize(
    ("extra", "layers"),
    [
        ("", (4, 4)),
        (f"{FIRST} 3", (3, 5)),
        (f"{LAST} 3", (5, 3)),
        (f"{FIRST} 2 {LAST} 6", (2, 6)),
        (f"{STAGES} 4 {FIRST} 1 {LAST} 1", (1, 3, 3, 1)),
        (f"{STAGES} 4 {FIRST} 2", (2, 2, 2, 2)),
        (f"{PER_PART} 2", (2, 2, 2, 2)),
        (f"{PARTS} 2 {FIRST} 2", (1, 3, 1, 3)),
    ],
)
def test_layers_of_virtual_stages(extra: str, layers: tuple[int, ...]) -> None:
    layout = validate(parse_arguments(words(extra)), world_size=4)
    assert layout.layers_of_virtual_stages == layers


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (f"{STAGES} 4 --num-layers 6", "use 4 or 8 layers"),
        (f"{STAGES} 4 --num-layers 3", "use 4 layers"),
        (f"{FIRST} 8", "must be at least 1 and leave layers"),
        (f"{FIRST} 0", "must be at least 1 and leave layers"),
        (f"{FIRST} 2 {LAST} 2", "leave 4 of --num-layers 8 for 0 other stages"),
        (f"{STAGES} 4 {FIRST} 3", "leave 5 of --num-layers 8 for 3 other stages"),
        (f"{STAGES} 1 {FIRST} 3", "one stage has all layers"),
        (f"{PER_PART} 3", "does not divide the 4 layers of a stage (8 layers over 2 stages)"),
        (f"{PER_PART} 2 {FIRST} 2", f"use {PARTS}"),
        (f"{PER_PART} 2 {PARTS} 2", "say the same thing twice"),
        (f"{PARTS} 2 {FIRST} 3", "3 layers of stage 0 do not divide over 2 virtual stages"),
        (f"{STAGES} 1 {PER_PART} 2", "nothing to interleave with"),
    ],
)
def test_refused_layers(extra: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        validate(parse_arguments(words(extra)), world_size=4)
    assert message in str(refusal.value)
