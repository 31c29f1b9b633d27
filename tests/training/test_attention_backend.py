"""`--attention-backend`: chosen before processes join, refused with a name that can."""

from __future__ import annotations

import pytest

from megatron.seq1f1b.config import parse_arguments
from megatron.seq1f1b.errors import BackendError
from megatron.seq1f1b.training.attention import attention_of
from megatron.seq1f1b.training.prepare import prepare
from tests.config.flags import words


def chosen(flags: str) -> str:
    return attention_of(prepare(parse_arguments(words(flags)), world_size=2))


@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_the_one_asked_for_serves(name: str) -> None:
    assert chosen(f"--attention-backend {name} --window-size 8,0 --bf16") == name


def test_auto_is_the_fast_one_of_the_device() -> None:
    assert chosen("") == "cpu"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("torch-flash", "run on CUDA tensors only, not on cpu; use 'cpu'"),
        ("flash-attn", "private functions .*; use 'cpu'"),
        ("transformer-engine", "nothing here has run .*; use 'cpu'"),
        ("flash", "there is no attention backend 'flash'; there are auto, torch-flash, cpu, reference"),
    ],
)
def test_another_says_why_not(name: str, reason: str) -> None:
    with pytest.raises(BackendError, match=reason):
        chosen(f"--attention-backend {name}")
