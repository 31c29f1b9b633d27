"""The loop that every schedule here shares: warmup forwards, steady pairs, cooldown backwards."""

from __future__ import annotations

from collections.abc import Sequence

from megatron.seq1f1b.schedule.action import Action


def one_forward_one_backward(
    forwards: Sequence[Action], backwards: Sequence[Action], *, num_warmup: int
) -> tuple[Action, ...]:
    """One rank's actions: `num_warmup` forwards, then pairs of forward and backward, then the rest.

    A `num_warmup` beyond the number of forwards makes every forward a warmup.
    """
    num_warmup = min(num_warmup, len(forwards))
    num_steady = len(forwards) - num_warmup
    actions = list(forwards[:num_warmup])
    for forward, backward in zip(forwards[num_warmup:], backwards[:num_steady], strict=True):
        actions += (forward, backward)
    actions += backwards[num_steady:]
    return tuple(actions)
