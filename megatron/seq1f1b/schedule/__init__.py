"""What happens when: schedules as plans, the passes over them, validator and simulator.

Standard library only. `make_plan` gives a compute plan, `add_communication` places its messages,
`validate_plan` proves that it can run, `simulate` says how long it takes and what it holds.

Read first: action.py, plan.py, seq1f1b.py, dependencies.py.
"""

from megatron.seq1f1b.schedule.action import Action, ActionKind
from megatron.seq1f1b.schedule.communication import (
    Channel,
    add_communication,
    channel_of,
    receive_before,
    receive_of,
    send_after,
    with_communication,
)
from megatron.seq1f1b.schedule.costs import Costs, unit_costs
from megatron.seq1f1b.schedule.dependencies import Dependencies, dependencies_of
from megatron.seq1f1b.schedule.formulas import bubble_formula, peak_formula
from megatron.seq1f1b.schedule.grid import plan_to_grid
from megatron.seq1f1b.schedule.plan import Plan
from megatron.seq1f1b.schedule.plan_csv import is_plan_file, plan_from_csv, plan_to_csv
from megatron.seq1f1b.schedule.registry import SCHEDULE_NAMES, check_schedule, make_plan
from megatron.seq1f1b.schedule.simulate import Simulation, simulate
from megatron.seq1f1b.schedule.validate import validate_plan

__all__ = [
    "SCHEDULE_NAMES",
    "Action",
    "ActionKind",
    "Channel",
    "Costs",
    "Dependencies",
    "Plan",
    "Simulation",
    "add_communication",
    "bubble_formula",
    "channel_of",
    "check_schedule",
    "dependencies_of",
    "is_plan_file",
    "make_plan",
    "peak_formula",
    "plan_from_csv",
    "plan_to_csv",
    "plan_to_grid",
    "receive_before",
    "receive_of",
    "send_after",
    "simulate",
    "unit_costs",
    "validate_plan",
    "with_communication",
]
