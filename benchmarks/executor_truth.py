"""Measured over simulated makespan of the executor, its compute replaced by waits.

    python benchmarks/executor_truth.py --stages 8 --microbatches 8 --chunks 4

Real processes and real gloo messages run the plans; F, B, I and W wait for what the cost model
says, 5 to 20 ms, uneven over chunks, with a heavier last stage. The simulator is given the latency of a
message, measured in the same run between two idle ranks; `over_free_messages` says what the ratio
is to a simulation in which messages take no time. The aim is a ratio of at most 1.05. A machine that
runs other things ends waits late, whoever executes the plan: `over_measured_waits` is the ratio to a
simulation with the mean times that the waits took.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.distributed as dist

from megatron.seq1f1b.chunk import Chunk, chunks_from
from megatron.seq1f1b.runtime.channels import Channels
from megatron.seq1f1b.runtime.executor import Executor, Forwarded, Unit, channels_of
from megatron.seq1f1b.runtime.messages import MessageBuffers
from megatron.seq1f1b.runtime.timer import ActionSeconds, ActionTimer
from megatron.seq1f1b.schedule import ActionKind, Costs, Plan, add_communication, make_plan, simulate
from tests.harness import run_distributed

FORWARD_SECONDS = (0.005, 0.006, 0.007, 0.0075)
"""Of the chunks in turn; B takes 2.2 times as long, I and W share it evenly."""
HEAD = 1.25
MESSAGE = (64, 1, 256)


SPIN_SECONDS = 0.001
"""The end of a wait is spun, since sleeping wakes late."""


def wait(seconds: float) -> None:
    """Return `seconds` from now, to a few microseconds."""
    deadline = time.perf_counter() + seconds
    time.sleep(max(0.0, seconds - SPIN_SECONDS))
    while time.perf_counter() < deadline:
        pass


class WaitingProgram:
    """F, B, I and W that wait; the tensors they return are only passed on."""

    def __init__(self, costs: Costs) -> None:
        self._costs = costs

    def forward(self, unit: Unit, stage_input: torch.Tensor | None) -> torch.Tensor:
        wait(self._costs.forward_seconds[unit.virtual_stage][unit.chunk])
        return torch.zeros(MESSAGE)

    def backward(self, unit: Unit, forwarded: Forwarded) -> torch.Tensor:
        wait(self._costs.backward_seconds[unit.virtual_stage][unit.chunk])
        return torch.zeros(MESSAGE)

    def backward_input(self, unit: Unit, forwarded: Forwarded) -> torch.Tensor:
        wait(self._costs.input_grad_seconds[unit.virtual_stage][unit.chunk])
        return torch.zeros(MESSAGE)

    def backward_weight(self, unit: Unit) -> None:
        wait(self._costs.weight_grad_seconds[unit.virtual_stage][unit.chunk])

    def finish(self, unit: Unit) -> None:
        """Nothing is kept."""


def costs_of(plan: Plan) -> Costs:
    """Waits of 5 to 20 ms per (virtual stage, chunk)."""
    forward = [FORWARD_SECONDS[chunk % len(FORWARD_SECONDS)] for chunk in range(plan.num_chunks)]
    weights = [1.0] * (plan.num_all_virtual_stages - 1) + [HEAD]

    def table(factor: float) -> list[list[float]]:
        return [[factor * weight * seconds for seconds in forward] for weight in weights]

    return Costs(
        forward_seconds=table(1.0),
        backward_seconds=table(2.2),
        input_grad_seconds=table(1.1),
        weight_grad_seconds=table(1.1),
        token_shares=[1.0 / plan.num_chunks] * plan.num_chunks,
    )


def with_waits(costs: Costs, waits: ActionSeconds) -> Costs:
    """The costs with what was measured in the place of what was asked for."""

    def table(kind: ActionKind, asked: Sequence[Sequence[float]]) -> list[list[float]]:
        return [
            [waits.get((kind, stage, chunk), seconds) for chunk, seconds in enumerate(row)]
            for stage, row in enumerate(asked)
        ]

    return replace(
        costs,
        forward_seconds=table(ActionKind.F, costs.forward_seconds),
        backward_seconds=table(ActionKind.B, costs.backward_seconds),
        input_grad_seconds=table(ActionKind.I, costs.input_grad_seconds),
        weight_grad_seconds=table(ActionKind.W, costs.weight_grad_seconds),
    )


def measure(plan: Plan, rounds: int) -> tuple[list[float], ActionSeconds]:
    """Makespan of several runs of a plan, in seconds, and how long its waits took on average."""
    torch.set_num_threads(1)
    chunks = chunks_from(tuple(range(plan.num_chunks + 1)))
    channels = Channels(channels_of(plan), pipeline_group=dist.group.WORLD)
    makespans = []
    timer = ActionTimer()
    for _ in range(rounds + 1):
        executor = Executor(
            plan=plan,
            rank=dist.get_rank(),
            chunks=chunks,
            program=WaitingProgram(costs_of(plan)),
            channels=channels,
            buffers=MessageBuffers(_new_message),
            observer=timer,
        )
        dist.barrier()
        started_at = time.time()
        executor.run()
        span = torch.tensor([-started_at, time.time()], dtype=torch.float64)
        dist.all_reduce(span, op=dist.ReduceOp.MAX)
        makespans.append(float(span.sum()))
    channels.close()
    return makespans[1:], timer.gathered(statistics.mean)


def measure_latency(rounds: int) -> float:
    """Seconds from the start of a send until its receiver has the message, of the same size."""
    torch.set_num_threads(1)
    plan = add_communication(make_plan("seq1f1b", stages=2, microbatches=1, chunks=1))
    there, back = sorted(channels_of(plan))
    channels = Channels([there, back], pipeline_group=dist.group.WORLD)
    is_first = dist.get_rank() == there.source
    seconds = []
    for _ in range(rounds):
        inbound = back if is_first else there
        receive = channels.post_receive(inbound, torch.empty(MESSAGE), what="ping")
        wait(0.004 if is_first else 0.0)
        started_at = time.perf_counter()
        if is_first:
            channels.send(there, torch.zeros(MESSAGE), what="ping")
            receive.wait()
            seconds.append((time.perf_counter() - started_at) / 2.0)
        else:
            receive.wait()
            channels.send(back, torch.zeros(MESSAGE), what="ping")
    channels.close()
    return statistics.median(seconds) if seconds else 0.0


def _new_message(chunk: Chunk) -> torch.Tensor:
    return torch.empty(MESSAGE)


def main() -> None:
    """Measure every schedule and print one JSON object a line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--stages", type=int, default=8)
    parser.add_argument("--microbatches", type=int, default=8)
    parser.add_argument("--chunks", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    latency = run_distributed(measure_latency, 2, 100)[0]
    print(json.dumps({"message_latency_seconds": round(latency, 6)}), flush=True)
    for name, virtual_stages in (("seq1f1b", 1), ("seq1f1b-interleaved", 2), ("seq1f1b-zb", 1)):
        for chunks in sorted({1, arguments.chunks}):
            plan = add_communication(
                make_plan(
                    name,
                    stages=arguments.stages,
                    microbatches=arguments.microbatches,
                    chunks=chunks,
                    virtual_stages=virtual_stages,
                )
            )
            free = simulate(plan, costs_of(plan)).makespan_seconds
            costs = replace(costs_of(plan), latency_seconds=latency)
            simulated = simulate(plan, costs).makespan_seconds
            measured, waits = run_distributed(measure, arguments.stages, plan, arguments.rounds)[0]
            waited = simulate(plan, with_waits(costs, waits))
            median = statistics.median(measured)
            result = {
                "schedule": name,
                "stages": arguments.stages,
                "microbatches": arguments.microbatches,
                "chunks": chunks,
                "virtual_stages": virtual_stages,
                "simulated_seconds": round(simulated, 4),
                "measured_seconds": round(median, 4),
                "measured_over_simulated": round(median / simulated, 4),
                "over_free_messages": round(median / free, 4),
                "over_measured_waits": round(median / waited.makespan_seconds, 4),
            }
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
