"""Plans as CSV: one row per pipeline rank, one action per cell.

    0F0.0,0F0.1,0B0.1,0B0.0
    1F0.0,1F0.1,1B0.1,1B0.0

The file says everything: p is the number of rows, m, k and v follow from the forwards in it, and a
plan without any backward is an evaluation. Empty cells, blank lines and lines that start with
`#` mean nothing, so a plan may be laid out as a timetable; nor do a spreadsheet's quotes. Semicolons
and tabs separate cells as commas do.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from itertools import count

from megatron.seq1f1b.errors import PlanError
from megatron.seq1f1b.schedule.action import Action, ActionKind
from megatron.seq1f1b.schedule.blame import InvalidPlanError
from megatron.seq1f1b.schedule.plan import Plan
from megatron.seq1f1b.schedule.validate import validate_plan

_FORWARD_KINDS = (ActionKind.F, ActionKind.SEND_F, ActionKind.RECV_F)
_BYTE_ORDER_MARK = "\ufeff"
"""What spreadsheets put before the text of a CSV file."""
_SEPARATOR = re.compile(r"[,;\t]")
"""Between cells; spreadsheets write semicolons where the comma is the decimal point."""
_BLANK = string.whitespace + '"'
"""What may stand around a cell or a line."""


def is_plan_file(schedule: str) -> bool:
    """Whether what a user gave as the schedule is the name of a plan's file, and not of a schedule."""
    return schedule.lower().endswith(".csv")


def plan_to_csv(plan: Plan) -> str:
    """The plan as text that `plan_from_csv` reads back."""
    return "".join(",".join(map(str, actions)) + "\n" for actions in plan.actions)


def plan_from_csv(text: str, *, name: str = "csv") -> Plan:
    """Read and validate a plan, with or without communication.

    Args:
        text: the contents of the file.
        name: what the plan is called in messages, for instance the file's name.

    Raises:
        PlanError: a cell that is no action, with its line; or what `validate_plan` finds.
    """
    rows = [
        (number, _parse_row(name, number, line))
        for number, line in enumerate(text.removeprefix(_BYTE_ORDER_MARK).splitlines(), start=1)
        if line.strip(_BLANK) and not line.lstrip(_BLANK).startswith("#")
    ]
    if not rows:
        raise PlanError(f"plan {name!r} has no actions; write one line of actions per pipeline rank")
    lines = tuple(number for number, _ in rows)
    plan = _infer(name, tuple(actions for _, actions in rows))
    try:
        validate_plan(plan)
    except InvalidPlanError as error:
        raise PlanError(f"line {lines[error.rank]}: {error}") from None
    return plan


def _parse_row(name: str, number: int, line: str) -> tuple[Action, ...]:
    actions = []
    for column, cell in enumerate(_SEPARATOR.split(line), start=1):
        text = cell.strip(_BLANK)
        if not text:
            continue
        try:
            actions.append(Action.parse(text))
        except PlanError as error:
            raise PlanError(f"plan {name!r}, line {number}, column {column}: {error}") from None
    if not actions:
        raise PlanError(f"plan {name!r}, line {number}: a pipeline rank without any action")
    return tuple(actions)


def _infer(name: str, rows: tuple[tuple[Action, ...], ...]) -> Plan:
    """The counts that a plan with these actions must have."""
    computes = [action for row in rows for action in row if action.kind.is_compute]
    return Plan(
        name=name,
        num_stages=len(rows),
        num_microbatches=_count(computes, "microbatch"),
        num_chunks=_count(computes, "chunk"),
        num_virtual_stages=-(-_count(computes, "virtual_stage") // len(rows)),
        forward_only=all(action.kind in _FORWARD_KINDS for row in rows for action in row),
        actions=rows,
    )


def _count(computes: Sequence[Action], field: str) -> int:
    """How many there are from 0 without a gap, at least 1; a mistyped number is then the one to blame.

    A number that forwards lack is no gap where another action has it: there, a forward is missing.
    """
    forwards = {getattr(action, field) for action in computes if action.kind is ActionKind.F}
    numbers = {getattr(action, field) for action in computes}
    without_gap = next(number for number in count() if number not in numbers)
    return max(1, min(without_gap, 1 + max(forwards, default=0)))
