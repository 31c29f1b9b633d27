"""A small run's flags, for tests that change some of them."""

from __future__ import annotations

SMALL = (
    "--num-layers 8 --hidden-size 32 --num-attention-heads 4 --seq-length 64 --micro-batch-size 1 "
    "--global-batch-size 8 --train-iters 4 --lr 1e-3 --mock-data --tokenizer-type NullTokenizer "
    "--vocab-size 127 --pipeline-model-parallel-size 2 --pipe-sp-splits 4"
)


def words(extra: str = "") -> list[str]:
    """The small run's words and further ones, which win."""
    return f"{SMALL} {extra}".split()
