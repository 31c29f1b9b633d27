"""Lengths of the learning rate's schedule, said in steps, samples or as a share."""

from __future__ import annotations

import pytest

from megatron.seq1f1b.config import parse_arguments, validate
from megatron.seq1f1b.errors import ConfigurationError
from tests.config.flags import SMALL

WITHOUT_LENGTH = SMALL.replace("--train-iters 4", "")


def lengths(extra: str) -> tuple[int, int, int, int | None]:
    """(steps, warmup samples, decay samples, samples of WSD's last phase); a step has 8 samples."""
    layout = validate(parse_arguments(f"{WITHOUT_LENGTH} {extra}".split()), world_size=2)
    rate = layout.learning_rate
    return layout.train_iters, rate.warmup_samples, rate.decay_samples, rate.wsd_decay_samples


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ("--train-iters 10", (10, 0, 80, None)),
        ("--train-iters 10 --lr-warmup-iters 2 --lr-decay-iters 8", (10, 16, 64, None)),
        ("--train-iters 10 --lr-warmup-fraction 0.25", (10, 20, 80, None)),
        ("--train-iters 10 --lr-decay-style WSD --lr-wsd-decay-iters 3", (10, 0, 80, 24)),
        ("--train-samples 85", (10, 0, 85, None)),
        ("--train-samples 80 --lr-warmup-samples 12 --lr-decay-samples 60", (10, 12, 60, None)),
    ],
)
def test_lengths(extra: str, expected: tuple[int, int, int, int | None]) -> None:
    assert lengths(extra) == expected


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("", "neither is given"),
        ("--train-iters 2 --train-samples 16", "both are given"),
        ("--train-samples 7", "less than one step of --global-batch-size 8"),
        ("--train-samples 80 --lr-warmup-iters 2", "--lr-warmup-iters 2 goes with --train-iters"),
        ("--train-iters 2 --lr-decay-samples 2", "--lr-decay-samples 2 goes with --train-samples"),
        ("--train-iters 4 --lr-warmup-iters 4", "leaves nothing of the 4 steps"),
        ("--train-samples 40 --lr-warmup-samples 41", "41 leaves nothing of the 40 samples"),
        ("--train-iters 4 --lr-warmup-iters 1 --lr-warmup-fraction 0.1", "say the same thing twice"),
        ("--train-iters 4 --lr-decay-style WSD", "needs --lr-wsd-decay-iters"),
        ("--train-iters 4 --lr-wsd-decay-iters 2", "use WSD"),
        ("--train-iters 4 --end-weight-decay 1", "need --weight-decay-incr-style"),
        (
            "--train-iters 4 --weight-decay-incr-style linear --start-weight-decay 1 --end-weight-decay 0",
            "it only increases",
        ),
    ],
)
def test_contradictions_are_refused(extra: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        lengths(extra)
    assert message in str(refusal.value)
