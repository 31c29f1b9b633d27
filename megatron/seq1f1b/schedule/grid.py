"""Plans as text: one row per pipeline rank.

`plan_to_grid` draws time from left to right under a cost model; `window` shows the neighbourhood of
the actions that a validator complains about.
"""

from __future__ import annotations

from collections.abc import Mapping

from megatron.seq1f1b.errors import ConfigurationError
from megatron.seq1f1b.schedule.plan import Plan
from megatron.seq1f1b.schedule.simulate import Simulation

WINDOW_ROWS = 9
WINDOW_COLUMNS = 7

MAX_CHARACTERS = 100_000_000
"""Of the largest timeline that is drawn; nobody reads more, and a few times as many fill a memory."""


def plan_to_grid(simulation: Simulation, *, seconds_per_column: float = 1.0) -> str:
    """A timeline of the compute actions, one column per `seconds_per_column`.

    An action's text stands where it starts, dots fill the columns it goes on for, and blanks are
    bubbles. Actions that start within the same column push each other to the right, so choose
    columns no longer than the shortest action.

    Raises:
        ConfigurationError: the timeline would be too large.
    """
    plan = simulation.plan
    width = 1 + max(
        len(str(action)) for actions in plan.actions for action in actions if action.kind.is_compute
    )
    num_columns = simulation.makespan_seconds / seconds_per_column
    if plan.num_stages * num_columns * width > MAX_CHARACTERS:
        raise ConfigurationError(
            f"a timeline of {plan.num_stages} stages and {num_columns:.4g} columns, the shortest action's, "
            "is too large for text; take fewer stages or microbatches, costs that differ less, or another "
            "format"
        )
    rows = []
    for rank, actions in enumerate(plan.actions):
        row = ""
        times = zip(actions, simulation.starts[rank], simulation.ends[rank], strict=True)
        for action, start, end in times:
            if not action.kind.is_compute:
                continue
            column, end_column = round(start / seconds_per_column), round(end / seconds_per_column)
            row = row.ljust(column * width) + str(action)
            row += " " + "." * (end_column * width - len(row) - 2)
        rows.append(f"{_label(plan, rank)} {row}".rstrip())
    return "\n".join(rows)


def window(plan: Plan, marks: Mapping[int, int]) -> str:
    """Rows of actions by position, each around its rank's mark, which stands in >brackets<.

    A mark just past the end says that something is missing. Ranks without a mark are shown at the
    first mark's position; of many ranks only those near marks are shown.
    """
    default = next(iter(marks.values()))
    rows = []
    for rank in _rows_near(marks, len(plan.actions)):
        texts = [f" {action} " for action in plan.actions[rank]]
        middle = marks.get(rank, default)
        if rank in marks:
            texts[middle : middle + 1] = [f">{texts[middle].strip() if middle < len(texts) else 'end'}<"]
        start = max(0, min(middle - WINDOW_COLUMNS // 2, len(texts) - WINDOW_COLUMNS))
        rows.append((rank, start, texts))
    shown = [text for _, start, texts in rows for text in texts[start : start + WINDOW_COLUMNS]]
    width = max(map(len, shown), default=0)
    return "\n".join(
        f"{_label(plan, rank)} {'...' if start else '   '} "
        + " ".join(text.ljust(width) for text in texts[start : start + WINDOW_COLUMNS]).rstrip()
        + ("  ..." if start + WINDOW_COLUMNS < len(texts) else "")
        for rank, start, texts in rows
    )


def _rows_near(marks: Mapping[int, int], num_ranks: int) -> list[int]:
    """At most `WINDOW_ROWS` ranks: the marked ones first, then those next to the first mark."""
    first = next(iter(marks))
    others = sorted(
        (rank for rank in range(num_ranks) if rank not in marks), key=lambda rank: abs(rank - first)
    )
    return sorted([*marks, *others][:WINDOW_ROWS])


def _label(plan: Plan, rank: int) -> str:
    return f"rank {rank}".ljust(5 + len(str(plan.num_stages - 1)))
