"""The banner says what its numbers take for granted."""

from __future__ import annotations

from megatron.seq1f1b.config import parse_arguments
from megatron.seq1f1b.training.banner import banner
from megatron.seq1f1b.training.prepare import prepare

FLAGS = (
    "--num-layers 4 --hidden-size 64 --num-attention-heads 4 --seq-length 4096 --vocab-size 127 "
    "--micro-batch-size 1 --global-batch-size 4 --train-iters 1 --lr 1e-3 --mock-data --tokenizer-type "
    "NullTokenizer --pipeline-model-parallel-size 2 --pipe-sp-splits 4 "
)


def chunks_row(extra: str) -> str:
    run = prepare(parse_arguments((FLAGS + extra).split()), world_size=2)
    text = banner(run, num_parameters=1, device="cpu", optimizer="torch's AdamW", attention="cpu")
    return next(row for row in text.splitlines() if row.strip().startswith("chunks"))


def test_a_window_known_at_the_start_is_in_the_partition() -> None:
    assert "4 of 1902, 907, 698, 589 tokens (uniform_comp)" in chunks_row("")
    assert "4 of 1066, 1010, 1010, 1010 tokens (uniform_comp)" in chunks_row("--window-size 255,0")


def test_documents_are_not_and_the_banner_says_so() -> None:
    assert "one document per sequence" in chunks_row("--reset-attention-mask")
