"""Measured over simulated makespan of the executor, its compute replaced by waits.

    python benchmarks/executor_truth.py --stages 8 --microbatches 8 --chunks 4

Real processes and real gloo messages run the plans; F, B, I and W wait for what the cost model
says, 5 to 20 ms, uneven over chunks, with a heavier last stage. What is left over is what the
executor and its channels cost. The aim is a ratio of at most 1.05 for every schedule.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.distributed as dist

from megatron.seq1f1b.chunk import Chunk, chunks_from
from megatron.seq1f1b.runtime.channels import Channels
from megatron.seq1f1b.runtime.executor import Executor, Unit, channels_of
from megatron.seq1f1b.schedule import Costs, Plan, add_communication, make_plan, simulate
from tests.harness import run_distributed

FORWARD_SECONDS = (0.005, 0.006, 0.007, 0.0075)
"""Of the chunks in turn; B takes 2.2 times as long, I and W share it evenly."""
HEAD = 1.25
MESSAGE = (64, 1, 256)


class WaitingProgram:
    """F, B, I and W that wait; the tensors they return are only passed on."""

    def __init__(self, costs: Costs) -> None:
        self._costs = costs

    def forward(self, unit: Unit, stage_input: torch.Tensor | None) -> torch.Tensor:
        time.sleep(self._costs.forward_seconds[unit.virtual_stage][unit.chunk])
        return torch.zeros(MESSAGE)

    def backward(self, unit: Unit, *tensors: torch.Tensor | None) -> torch.Tensor:
        time.sleep(self._costs.backward_seconds[unit.virtual_stage][unit.chunk])
        return torch.zeros(MESSAGE)

    def backward_input(self, unit: Unit, *tensors: torch.Tensor | None) -> torch.Tensor:
        time.sleep(self._costs.input_grad_seconds[unit.virtual_stage][unit.chunk])
        return torch.zeros(MESSAGE)

    def backward_weight(self, unit: Unit) -> None:
        time.sleep(self._costs.weight_grad_seconds[unit.virtual_stage][unit.chunk])

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


def measure(plan: Plan, rounds: int) -> list[float]:
    """Makespan of several runs of a plan, in seconds."""
    torch.set_num_threads(1)
    chunks = chunks_from(tuple(range(plan.num_chunks + 1)))
    channels = Channels(channels_of(plan), pipeline_group=dist.group.WORLD)
    makespans = []
    for _ in range(rounds + 1):
        executor = Executor(
            plan=plan,
            rank=dist.get_rank(),
            chunks=chunks,
            program=WaitingProgram(costs_of(plan)),
            channels=channels,
            new_message=_new_message,
        )
        dist.barrier()
        started_at = time.time()
        executor.run()
        span = torch.tensor([-started_at, time.time()], dtype=torch.float64)
        dist.all_reduce(span, op=dist.ReduceOp.MAX)
        makespans.append(float(span.sum()))
    channels.close()
    return makespans[1:]


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
            simulated = simulate(plan, costs_of(plan)).makespan_seconds
            measured = run_distributed(measure, arguments.stages, plan, arguments.rounds)[0]
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
            }
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
