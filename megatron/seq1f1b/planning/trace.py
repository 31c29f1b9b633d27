"""Simulated steps as traces that Perfetto and chrome://tracing open."""

from __future__ import annotations

import json

from megatron.seq1f1b.schedule import Simulation


def to_trace(simulation: Simulation, *, name: str) -> str:
    """Trace-event JSON: one process for the plan, one thread per stage, microseconds.

    Sends and receives take no time on their stage and stand as instants.
    """
    events: list[dict[str, object]] = [
        {"ph": "M", "pid": 0, "tid": 0, "name": "process_name", "args": {"name": name}}
    ]
    for stage, actions in enumerate(simulation.plan.actions):
        label = {"name": f"stage {stage}"}
        events.append({"ph": "M", "pid": 0, "tid": stage, "name": "thread_name", "args": label})
        times = zip(actions, simulation.starts[stage], simulation.ends[stage], strict=True)
        for action, start, end in times:
            event: dict[str, object] = {
                "pid": 0,
                "tid": stage,
                "name": str(action),
                "cat": action.kind.value,
                "ts": start * 1e6,
                "args": {
                    "virtual_stage": action.virtual_stage,
                    "microbatch": action.microbatch,
                    "chunk": action.chunk,
                },
            }
            if action.kind.is_compute:
                event |= {"ph": "X", "dur": (end - start) * 1e6}
            else:
                event |= {"ph": "i", "s": "t"}
            events.append(event)
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms"})
