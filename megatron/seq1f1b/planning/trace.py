"""Simulated and measured steps as traces that Perfetto and chrome://tracing open.

Trace-event JSON in microseconds: one process per pipeline, one thread per stage, and one event per
action under its text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from megatron.seq1f1b.planning.measured import MeasuredPipeline, Timed
from megatron.seq1f1b.schedule import Action, Simulation, receive_before, receive_of

Event = dict[str, object]


def to_trace(simulation: Simulation, *, name: str) -> str:
    """A simulated plan; sends and receives take no time on their stage and stand as instants."""
    return _to_json([*_names(0, name, simulation.plan.num_stages), *_simulated(simulation, 0, 0.0)])


class MeasuredTrace:
    """Measured steps of all pipelines behind one another, each with what was simulated below it.

    On its stage's thread stands every action that computes, before it as `wait 1F0.0` the time until
    its message had arrived, and what starting a send or posting a receive took. An arrow leads from
    a send to the action that consumes its message.
    """

    def __init__(self, names: Sequence[str], *, num_stages: int, started_at: float) -> None:
        """`names` of the pipelines; `started_at` is time 0 of the trace."""
        self._started_at = started_at
        self._simulated = len(names)
        self._events: list[Event] = []
        for process, name in enumerate([*names, "simulated with the measured time of every action"]):
            self._events += _names(process, name, num_stages)

    def add(self, step: int, pipelines: Sequence[MeasuredPipeline], simulation: Simulation) -> None:
        """One step; the simulation is of the first pipeline."""
        for process, pipeline in enumerate(pipelines):
            for timed in pipeline.timed():
                self._events += self._measured(timed, process)
            self._events += self._messages(pipeline, process, label=f"step {step}, pipeline {process}, ")
        offset = pipelines[0].started_at - self._started_at
        self._events += _simulated(simulation, self._simulated, offset)

    def to_json(self) -> str:
        """The whole trace."""
        return _to_json(self._events)

    def _measured(self, timed: Timed, process: int) -> Iterator[Event]:
        stage, action, _, start, end = timed
        category = "compute" if action.kind.is_compute else "send" if action.kind.is_send else "receive"
        event = _event(action, process, stage, self._microseconds(start))
        yield event | {"cat": f"{category},{action.kind.value}", "ph": "X", "dur": 1e6 * (end - start)}

    def _messages(self, pipeline: MeasuredPipeline, process: int, *, label: str) -> Iterator[Event]:
        """For every action that needs a message, the wait for it, and the arrow from its send."""
        at = {timed.action: timed for timed in pipeline.timed()}
        senders = {receive_of(action): timed for action, timed in at.items() if action.kind.is_send}
        for stage, action, begin, start, _ in pipeline.computed():
            receive = receive_before(action, pipeline.plan)
            if receive is None:
                continue
            wait: Event = {"pid": process, "tid": stage, "name": f"wait {action}", "cat": "wait", "ph": "X"}
            yield wait | {"ts": self._microseconds(begin), "dur": 1e6 * (start - begin)}
            sent = senders.get(receive)
            if sent is not None:
                name = {"name": "message", "cat": "message", "id": label + str(sent.action), "pid": process}
                yield name | {"ph": "s", "tid": sent.stage, "ts": self._microseconds(sent.start)}
                yield name | {"ph": "f", "bp": "e", "tid": stage, "ts": self._microseconds(start)}

    def _microseconds(self, seconds: float) -> float:
        return 1e6 * (seconds - self._started_at)


def _names(process: int, name: str, num_stages: int) -> Iterator[Event]:
    yield {"ph": "M", "pid": process, "tid": 0, "name": "process_name", "args": {"name": name}}
    for stage in range(num_stages):
        label = {"name": f"stage {stage}"}
        yield {"ph": "M", "pid": process, "tid": stage, "name": "thread_name", "args": label}


def _simulated(simulation: Simulation, process: int, offset: float) -> Iterator[Event]:
    for stage, actions in enumerate(simulation.plan.actions):
        times = zip(actions, simulation.starts[stage], simulation.ends[stage], strict=True)
        for action, start, end in times:
            event = _event(action, process, stage, 1e6 * (offset + start))
            if action.kind.is_compute:
                yield event | {"ph": "X", "dur": 1e6 * (end - start)}
            else:
                yield event | {"ph": "i", "s": "t"}


def _event(action: Action, process: int, stage: int, microseconds: float) -> Event:
    _, virtual_stage, microbatch, chunk = action
    return {
        "pid": process,
        "tid": stage,
        "name": str(action),
        "cat": action.kind.value,
        "ts": microseconds,
        "args": {"virtual_stage": virtual_stage, "microbatch": microbatch, "chunk": chunk},
    }


def _to_json(events: list[Event]) -> str:
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms"})
