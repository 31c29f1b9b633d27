"""What happens when: schedules as plans, the passes over them, validator and simulator.

Standard library only. `make_plan` gives a compute plan, `add_communication` places its messages,
`validate_plan` proves that it can run, `simulate` says what it costs.
"""

from megatron.seq1f1b.schedule.action import Action, ActionKind
from megatron.seq1f1b.schedule.communication import Channel, add_communication, channel_of
from megatron.seq1f1b.schedule.plan import Plan
from megatron.seq1f1b.schedule.registry import SCHEDULE_NAMES, make_plan

__all__ = [
    "SCHEDULE_NAMES",
    "Action",
    "ActionKind",
    "Channel",
    "Plan",
    "add_communication",
    "channel_of",
    "make_plan",
]
