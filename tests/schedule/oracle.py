"""A second opinion on plans, written straight from the rules and sharing no code with the package.

`executes` runs a plan with explicit messages on first-in-first-out queues, as ranks would; `ends_of`
times a plan without messages by looking every need up by name.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Collection

from megatron.seq1f1b.schedule import Action, ActionKind, Plan

F, B, I, W = ActionKind.F, ActionKind.B, ActionKind.I, ActionKind.W  # noqa: E741
SECONDS = {F: 1.0, B: 2.0, I: 1.0, W: 1.0}


Wires = dict[tuple[int, int, str], deque[tuple[int, int, int]]]
"""Messages under way, by source, destination and direction: the places of their receives."""


class Rank:
    """What one pipeline rank has done and received."""

    def __init__(self) -> None:
        self.position = 0
        self.done: set[tuple[str, int, int, int]] = set()
        self.posted: dict[tuple[int, str], deque[Action]] = defaultdict(deque)
        self.arrived: set[tuple[str, int, int, int]] = set()


def executes(plan: Plan) -> bool:
    """Whether every rank reaches the end of its list and every message its own receive."""
    ranks = [Rank() for _ in plan.actions]
    wires: Wires = defaultdict(deque)
    progress = True
    while progress:
        progress = False
        for number, rank in enumerate(ranks):
            while rank.position < len(plan.actions[number]):
                if not _deliver(plan, number, rank, wires):
                    return False
                if not _step(plan, number, rank, wires):
                    break
                rank.position += 1
                progress = True
    return all(rank.position == len(plan.actions[number]) for number, rank in enumerate(ranks))


def _deliver(plan: Plan, number: int, rank: Rank, wires: Wires) -> bool:
    """Hand arrived messages to posted receives in order; False when one gets another's message."""
    for (source, way), posted in rank.posted.items():
        wire = wires[source, number, way]
        while posted and wire:
            receive = posted.popleft()
            if wire.popleft() != receive[1:]:
                return False
            rank.arrived.add((way, *receive[1:]))
    return True


def _step(plan: Plan, number: int, rank: Rank, wires: Wires) -> bool:
    """Run the next action if it can run now."""
    kind, s, j, c = plan.actions[number][rank.position]
    p, last = plan.num_stages, plan.num_stages * plan.num_virtual_stages - 1
    if kind is ActionKind.RECV_F:
        rank.posted[(s - 1) % p, "F"].append(Action(kind, s, j, c))
    elif kind is ActionKind.RECV_B:
        rank.posted[(s + 1) % p, "B"].append(Action(kind, s, j, c))
    elif kind is ActionKind.SEND_F:
        if ("F", s, j, c) not in rank.done:
            return False
        wires[number, (s + 1) % p, "F"].append((s + 1, j, c))
    elif kind is ActionKind.SEND_B:
        if ("B", s, j, c) not in rank.done:
            return False
        wires[number, (s - 1) % p, "B"].append((s - 1, j, c))
    else:
        available = (
            rank.arrived
            if p > 1
            else {(way, t - 1 if way == "B" else t + 1, *rest) for way, t, *rest in rank.done}
        )
        needs_message = (kind is F and s > 0) or (kind in (B, I) and s < last)
        if needs_message and ("F" if kind is F else "B", s, j, c) not in available:
            return False
        local = {
            F: [("F", s, j, c - 1)] if c > 0 else [],
            W: [("B", s, j, c)],
        }.get(kind, [("F", s, j, c)] + ([("B", s, j, c + 1)] if c < plan.num_chunks - 1 else []))
        if any(need not in rank.done for need in local):
            return False
        rank.done.add(({F: "F", W: "W"}.get(kind, "B"), s, j, c))
    return True


def ends_of(plan: Plan) -> dict[Action, float]:
    """End of every action of a plan without messages, F = I = W = 1 and B = 2, by fixed point."""
    ends: dict[Action, float] = {}
    last = plan.num_stages * plan.num_virtual_stages - 1
    positions = [0] * plan.num_stages
    while any(position < len(actions) for position, actions in zip(positions, plan.actions, strict=True)):
        for rank, actions in enumerate(plan.actions):
            while positions[rank] < len(actions):
                action = actions[positions[rank]]
                needs = _needs(action, last, plan.num_chunks)
                times = [ends[each] for either in needs for each in either if each in ends]
                if len(times) < len(needs):
                    break
                before = ends[actions[positions[rank] - 1]] if positions[rank] else 0.0
                ends[action] = max([before, *times]) + SECONDS[action.kind]
                positions[rank] += 1
    return ends


def can_run(action: Action, done: Collection[Action], last: int, num_chunks: int) -> bool:
    """Whether every need of an action is met by what all ranks have done."""
    return all(any(each in done for each in either) for either in _needs(action, last, num_chunks))


def _needs(action: Action, last: int, num_chunks: int) -> list[list[Action]]:
    """For every need the actions of which one meets it."""
    kind, s, j, c = action
    if kind is W:
        return [[Action(I, s, j, c)]]
    if kind is F:
        needs = [[Action(F, s - 1, j, c)]] if s > 0 else []
        return needs + ([[Action(F, s, j, c - 1)]] if c > 0 else [])
    needs = [[Action(F, s, j, c)]]
    if s < last:
        needs.append([Action(B, s + 1, j, c), Action(I, s + 1, j, c)])
    if c < num_chunks - 1:
        needs.append([Action(B, s, j, c + 1), Action(I, s, j, c + 1)])
    return needs
