"""Damaged plan files: each is refused with the line and an action, or it runs."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from megatron.seq1f1b.errors import PlanError
from megatron.seq1f1b.schedule import Plan, add_communication, plan_from_csv, plan_to_csv, with_communication
from tests.properties.test_plans import plans
from tests.schedule.oracle import executes

PLACE = re.compile(r"\bline \d+.* (\d+(SEND_|RECV_)?[FBIW]\d+\.\d+|'.*' is not an action)")


@settings(max_examples=200, deadline=None)
@given(plan=plans(largest=4), has_messages=st.booleans(), data=st.data())
def test_a_damaged_file_is_refused_with_line_and_action_or_runs(
    plan: Plan, has_messages: bool, data: st.DataObject
) -> None:
    text = plan_to_csv(add_communication(plan) if has_messages and plan.num_stages > 1 else plan)
    rows = [line.split(",") for line in text.splitlines()]
    for _ in range(data.draw(st.integers(1, 2), label="damages")):
        damage(rows, data)
    try:
        damaged = plan_from_csv("\n".join(",".join(row) for row in rows if row))
    except PlanError as error:
        assert PLACE.search(str(error).splitlines()[0]) or not any(rows), str(error)
    else:
        assert executes(with_communication(damaged))


def damage(rows: list[list[str]], data: st.DataObject) -> None:
    """Remove, repeat, move or mistype an action, or remove or repeat a line."""
    index = data.draw(st.integers(0, len(rows) - 1), label="line") if rows else 0
    how = data.draw(
        st.sampled_from(["remove", "repeat", "move", "mistype", "no line", "line twice"]), label="how"
    )
    if how == "no line":
        del rows[index : index + 1]
    elif how == "line twice":
        rows[index:index] = [list(row) for row in rows[index : index + 1]]
    elif rows and rows[index]:
        row = rows[index]
        at, to = (data.draw(st.integers(0, len(row) - 1), label=label) for label in ("from", "to"))
        action = row[at] if how == "repeat" else row.pop(at)
        if how == "mistype":
            action = re.sub(r"\d+", data.draw(st.sampled_from("0123 9"), label="typed"), action, count=1)
        if how != "remove":
            row.insert(to, action)
