"""Layers over virtual stages, even and uneven."""

from __future__ import annotations

import pytest
from megatron.core.transformer.enums import LayerType
from megatron.core.transformer.pipeline_parallel_layer_layout import PipelineParallelLayerLayout

from megatron.seq1f1b.config import parse_arguments, validate
from megatron.seq1f1b.config.pipeline_layout import layers_of_layout
from megatron.seq1f1b.errors import ConfigurationError
from tests.config.flags import words

FIRST, LAST = "--decoder-first-pipeline-num-layers", "--decoder-last-pipeline-num-layers"
STAGES = "--pipeline-model-parallel-size"
EMBEDDING, LOSS = "--account-for-embedding-in-pipeline-split", "--account-for-loss-in-pipeline-split"
LAYOUT = "--pipeline-model-parallel-layout"
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
        (f"{EMBEDDING} {LOSS} --num-layers 10 {STAGES} 4", (2, 3, 3, 2)),
        (f"{EMBEDDING} --num-layers 7 {PER_PART} 2", (1, 2, 2, 2)),
        (f"{LOSS} --num-layers 7 {PARTS} 2", (2, 2, 2, 1)),
        (f"{LAYOUT} Ettt|tttttL", (3, 5)),
        (f"{LAYOUT} E|t*3,|(t)*2|t*3L", (0, 3, 2, 3)),
        (f"{LAYOUT} E(t*2|)*2tttt|L", (2, 2, 4, 0)),
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
        (f"{EMBEDDING} --num-layers 8", "8 and 1 for embedding or loss is not divisible"),
        (f"{EMBEDDING} --num-layers 8", "use 7 or 9 layers"),
        (f"{LOSS} {LAST} 3", "two ways to say which stage has how many layers"),
        (f"{LAYOUT} Etttt|ttttL {PARTS} 2", "two ways to say"),
        (f"{LAYOUT} Etttt|ttttmL", "what is none of E, t and L is not served: m"),
        (f"{LAYOUT} tttt|ttttL", "must begin with E"),
        (f"{LAYOUT} Ettt|ttttL", "it has 7 layers (t), and --num-layers is 8"),
        (f"{LAYOUT} Ett|tttt|ttL", "its 3 virtual stages are no multiple of"),
        (f"{LAYOUT} Etttt||t|tttL", "need a layer (t) each"),
        (f"{STAGES} 1 {LAYOUT} EttttttttL", "one stage needs no layout"),
    ],
)
def test_refused_layers(extra: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        validate(parse_arguments(words(extra)), world_size=4)
    assert message in str(refusal.value)


@pytest.mark.parametrize("text", ["Et|tt|tttL", "E(t*2|)*4ttt,L", "Etttt|(tt|)*1L", "E|t*6|L"])
def test_layouts_mean_what_they_mean_to_megatron_core(text: str) -> None:
    parts = PipelineParallelLayerLayout.parse_str_to_list(text)
    expected = [part.count(LayerType.decoder) for part in parts]
    layers = layers_of_layout(text, num_layers=sum(expected), stages=len(parts))
    assert list(layers) == expected
