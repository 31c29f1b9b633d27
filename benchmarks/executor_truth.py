"""Measured over simulated makespan of the executor, its compute replaced by waits.

    python benchmarks/executor_truth.py --stages 8 --microbatches 8 --chunks 4

Real processes and real gloo messages run the plans; F, B, I and W wait for what the cost model
says, 5 to 20 ms, uneven over chunks, with a heavier last stage. The simulator is given the latency of a
message, measured in the same rounds between two idle ranks; `over_free_messages` says what the ratio
is to a simulation in which messages take no time. The aim is a ratio of at most 1.05.

A machine that runs other things ends waits late, whoever executes the plan. So every round runs all
plans in turn, and says what others took of the machine meanwhile; `late_waits` is how much longer the
simulated step gets when every wait takes as long as it did, and `over_measured_waits` what remains of
the ratio: the executor's own time, its messages', and what others took between the waits.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.distributed as dist
from disturbance import Disturbance, median_and_spread

from megatron.seq1f1b.chunk import Chunk, chunks_from
from megatron.seq1f1b.runtime.channels import Channels
from megatron.seq1f1b.runtime.executor import Executor, Forwarded, Unit, channels_of
from megatron.seq1f1b.runtime.messages import MessageBuffers
from megatron.seq1f1b.runtime.timer import ActionTimer, TimedActions
from megatron.seq1f1b.schedule import Channel, Costs, Plan, add_communication, make_plan, simulate
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


def lateness(timed: TimedActions, costs: Costs) -> list[float]:
    """What each wait of a process took over what was asked for, in its order."""
    return [
        seconds / costs.seconds_of(kind)[virtual_stage][chunk]
        for (kind, virtual_stage, chunk), seconds in timed
    ]


@dataclass(frozen=True, kw_only=True)
class Round:
    """One run of every plan, by its name."""

    makespans: dict[str, float]
    """Seconds."""
    waits: dict[str, list[list[float]]]
    """What the waits of each process took over what was asked for, in its order."""
    latency: float
    """Of a message, in seconds."""
    disturbance: dict[str, float | None]
    """Shares of the processors' time, the mean over processes."""


def measure(plans: dict[str, Plan], rounds: int) -> list[Round]:
    """Runs of all plans in turn, in one process group; a round before them is not kept."""
    torch.set_num_threads(1)
    every_channel = set().union(*map(channels_of, plans.values()))
    channels = Channels(every_channel, pipeline_group=dist.group.WORLD)
    there, back = Channel(0, 1, True), Channel(1, 0, False)
    taken = []
    for number in range(rounds + 1):
        disturbance = Disturbance()
        latency = measure_latency(channels, there, back)
        makespans, waits = {}, {}
        for name in list(plans) if number % 2 == 0 else list(plans)[::-1]:
            makespans[name], waits[name] = run_once(plans[name], channels)
        taken.append(
            Round(
                makespans=makespans,
                waits=waits,
                latency=latency,
                disturbance=_mean_over_processes(disturbance.shares()),
            )
        )
    channels.close()
    return taken[1:]


def run_once(plan: Plan, channels: Channels) -> tuple[float, list[list[float]]]:
    """Makespan in seconds, from the first start to the last end, and how late each process's waits ended."""
    timer, costs = ActionTimer(), costs_of(plan)
    executor = Executor(
        plan=plan,
        rank=dist.get_rank(),
        chunks=chunks_from(tuple(range(plan.num_chunks + 1))),
        program=WaitingProgram(costs),
        channels=channels,
        buffers=MessageBuffers(_new_message),
        observer=timer,
    )
    dist.barrier()
    started_at = time.time()
    executor.run()
    span = torch.tensor([-started_at, time.time()], dtype=torch.float64)
    dist.all_reduce(span, op=dist.ReduceOp.MAX)
    return float(span.sum()), [lateness(timed, costs) for timed in timer.everyone()]


def measure_latency(channels: Channels, there: Channel, back: Channel, *, pings: int = 20) -> float:
    """Seconds from the start of a send until its receiver has the message, while nothing else runs."""
    rank = dist.get_rank()
    seconds = []
    dist.barrier()
    for _ in range(pings):
        if rank == there.source:
            receive = channels.post_receive(back, torch.empty(MESSAGE), what="ping")
            wait(0.004)
            started_at = time.perf_counter()
            channels.send(there, torch.zeros(MESSAGE), what="ping")
            receive.wait()
            seconds.append((time.perf_counter() - started_at) / 2.0)
        elif rank == there.destination:
            channels.post_receive(there, torch.empty(MESSAGE), what="ping").wait()
            channels.send(back, torch.zeros(MESSAGE), what="ping")
    dist.barrier()
    return statistics.median(seconds) if seconds else 0.0


def _mean_over_processes(shares: dict[str, float | None]) -> dict[str, float | None]:
    everyone: list[dict[str, float | None]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(everyone, shares)
    known = {name: [each[name] for each in everyone if each[name] is not None] for name in shares}
    return {name: round(statistics.mean(values), 4) if values else None for name, values in known.items()}


def _new_message(chunk: Chunk) -> torch.Tensor:
    return torch.empty(MESSAGE)


def plans_of(stages: int, microbatches: int, chunk_counts: Sequence[int]) -> dict[str, Plan]:
    """The plans of every schedule of ours, with their messages."""
    made = [
        make_plan(
            name, stages=stages, microbatches=microbatches, chunks=chunks, virtual_stages=virtual_stages
        )
        for name, virtual_stages in (("seq1f1b", 1), ("seq1f1b-interleaved", 2), ("seq1f1b-zb", 1))
        for chunks in chunk_counts
    ]
    return {f"{plan.name} {plan.num_chunks}": add_communication(plan) for plan in made}


def row_of(name: str, plan: Plan, rounds: list[Round]) -> dict[str, object]:
    """The figures of one plan."""
    latency = statistics.median(each.latency for each in rounds)
    costs = replace(costs_of(plan), latency_seconds=latency)
    simulated = simulate(plan, costs).makespan_seconds
    free = simulate(plan, costs_of(plan)).makespan_seconds
    measured = [each.makespans[name] for each in rounds]
    waited = [simulate(plan, costs, factors=each.waits[name]).makespan_seconds for each in rounds]
    ratios = [seconds / simulated for seconds in measured]
    median, middle_half = median_and_spread(ratios)
    return {
        "schedule": plan.name,
        "stages": plan.num_stages,
        "microbatches": plan.num_microbatches,
        "chunks": plan.num_chunks,
        "virtual_stages": plan.num_virtual_stages,
        "simulated_seconds": round(simulated, 4),
        "measured_seconds": round(statistics.median(measured), 4),
        "measured_over_simulated": median,
        "middle_half": middle_half,
        "best": round(min(ratios), 4),
        "rounds": [round(ratio, 3) for ratio in ratios],
        "over_free_messages": round(statistics.median(measured) / free, 4),
        "late_waits": round(statistics.median(seconds / simulated for seconds in waited), 4),
        "over_measured_waits": round(
            statistics.median(a / b for a, b in zip(measured, waited, strict=True)), 4
        ),
    }


def main() -> None:
    """Measure every schedule and print one JSON object a line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--stages", type=int, default=8)
    parser.add_argument("--microbatches", type=int, default=8)
    parser.add_argument("--chunks", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=16)
    arguments = parser.parse_args()
    plans = plans_of(arguments.stages, arguments.microbatches, sorted({1, arguments.chunks}))
    rounds = run_distributed(measure, arguments.stages, plans, arguments.rounds, timeout_seconds=600.0)[0]
    machine: dict[str, float | None] = {}
    for name in rounds[0].disturbance:
        shares = [each.disturbance[name] for each in rounds]
        machine[name] = None if None in shares else round(statistics.median(shares), 4)
    machine["message_latency_seconds"] = round(statistics.median(each.latency for each in rounds), 6)
    for name, plan in plans.items():
        print(json.dumps({**row_of(name, plan, rounds), **machine}), flush=True)


if __name__ == "__main__":
    main()
