from __future__ import annotations

import pytest

from megatron.seq1f1b.errors import ConfigurationError
from megatron.seq1f1b.schedule import add_communication, make_plan, plan_to_grid, simulate, unit_costs

TIMELINE = """\
rank 0 0F0.0 0F0.1 0F1.0             0B0.1 ..... 0F1.1 0B0.0 .....       0B1.1 ..... 0B1.0 .....
rank 1       1F0.0 1F0.1 1B0.1 ..... 1F1.0 1B0.0 ..... 1F1.1 1B1.1 ..... 1B1.0 ....."""


def test_a_timeline_shows_actions_where_they_start() -> None:
    plan = make_plan("seq1f1b", stages=2, microbatches=2, chunks=2)
    assert plan_to_grid(simulate(plan, unit_costs(plan))) == TIMELINE


def test_messages_are_not_drawn() -> None:
    plan = add_communication(make_plan("seq1f1b", stages=2, microbatches=2, chunks=2))
    assert plan_to_grid(simulate(plan, unit_costs(plan))) == TIMELINE


def test_columns_can_be_finer_than_actions() -> None:
    plan = make_plan("seq1f1b", stages=2, microbatches=1, chunks=1)
    costs = unit_costs(plan, forward_seconds=1.0, input_grad_seconds=0.25, weight_grad_seconds=0.25)
    assert plan_to_grid(simulate(plan, costs), seconds_per_column=0.5) == (
        "rank 0 0F0.0 .....                   0B0.0\nrank 1             1F0.0 ..... 1B0.0"
    )


def test_a_timeline_that_nobody_could_read_is_refused() -> None:
    plan = make_plan("seq1f1b", stages=2, microbatches=1, chunks=1)
    uneven = simulate(plan, unit_costs(plan, forward_seconds=1e-9))
    with pytest.raises(ConfigurationError, match=r"2 stages and 4e\+09 columns.* too large for text"):
        plan_to_grid(uneven, seconds_per_column=1e-9)
