"""Zero-bubble Seq1F1B: the backward is split, and weight gradients fill what would be bubbles.

The stage above waits for the input gradient (I) alone, so only I is passed on at once. The weight
gradient (W) of a unit is computed s units later on stage s. That lag is what the lower stages have
to spare: stage s holds s units less than stage 0 in Seq1F1B, so pending weight gradients bring
every stage to what stage 0 holds, and no further.

    stage 1 of 2   F0.0 F0.1 I0.1 F1.0 I0.0 W0.1 F1.1 I1.1 W0.0 I1.0 W1.1 W1.0

With F = I = W this leaves a bubble of (p-1) / (3 k m + p-1) wherever (m-1) k >= p-1. Stage 0 sends
no gradient and has no lag: it computes whole backwards. The split itself: Qi et al., arXiv
2401.10241.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from megatron.seq1f1b.schedule.action import Action, ActionKind
from megatron.seq1f1b.schedule.seq1f1b import seq1f1b


def zero_bubble(
    *, stages: int, microbatches: int, chunks: int, max_pending_weight_grads: int | None = None
) -> tuple[tuple[Action, ...], ...]:
    """The actions of every stage; `max_pending_weight_grads` bounds the lag of W behind I."""
    whole = seq1f1b(stages=stages, microbatches=microbatches, chunks=chunks)
    plan = [whole[0]]
    for stage in range(1, stages):
        lag = stage if max_pending_weight_grads is None else min(stage, max_pending_weight_grads)
        plan.append(tuple(_split_backwards(whole[stage], lag)))
    return tuple(plan)


def _split_backwards(actions: Iterable[Action], lag: int) -> Iterator[Action]:
    """Every B as I, followed by the W of the backward `lag` before it; the last Ws at the end."""
    pending: deque[Action] = deque()
    for action in actions:
        if action.kind is not ActionKind.B:
            yield action
            continue
        yield action._replace(kind=ActionKind.I)
        pending.append(action._replace(kind=ActionKind.W))
        if len(pending) > lag:
            yield pending.popleft()
    yield from pending
