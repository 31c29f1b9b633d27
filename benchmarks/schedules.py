"""Step time of every schedule as a ratio to 1F1B, beside what the simulator says.

    torchrun --standalone --nproc_per_node 4 benchmarks/schedules.py --microbatches 4 --chunks 4

All run in one process group, in turn. F, B, I and W are timed per stage and chunk in the very steps that
are measured, and each step's means given to the simulator: a step adds its actions up, slow ones included.
The reference of both ratios is Megatron-Core's own 1F1B. `kept` is the measured ratio over the simulated
one, the median over rounds.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise

import pipeline
import torch.distributed as dist
from disturbance import Disturbance, median_and_spread

from megatron.seq1f1b.runtime.chunked_schedule import ChunkedSchedule
from megatron.seq1f1b.runtime.timer import ActionSeconds, ActionTimer
from megatron.seq1f1b.runtime.upstream_timers import ObservedTimers
from megatron.seq1f1b.schedule import ActionKind, Costs, Plan, simulate


def costs_of(plan: Plan, seconds: ActionSeconds, boundaries: tuple[int, ...]) -> Costs:
    """The simulator's costs from measured means; kinds that never ran cost nothing."""

    def table(kind: ActionKind) -> list[list[float]]:
        return [
            [seconds.get((kind, stage, chunk), 0.0) for chunk in range(plan.num_chunks)]
            for stage in range(plan.num_all_virtual_stages)
        ]

    lengths = [high - low for low, high in pairwise(boundaries)]
    return Costs(
        forward_seconds=table(ActionKind.F),
        backward_seconds=table(ActionKind.B),
        input_grad_seconds=table(ActionKind.I),
        weight_grad_seconds=table(ActionKind.W),
        token_shares=[length / boundaries[-1] for length in lengths],
    )


class Measured:
    """The steps of one schedule, and what the simulator makes of each one's actions."""

    def __init__(self, entrant: pipeline.Contestant) -> None:
        self._entrant = entrant
        self._timer = ActionTimer()
        self._plan = entrant.run.compute_plan(entrant.run.layout.num_microbatches, False)
        self.seconds: list[float] = []
        self.simulated: list[float] = []

    def step(self) -> None:
        """One more step."""
        self._timer.clear()
        with self._observed():
            self.seconds.append(self._entrant.seconds())
        means = self._timer.gathered(statistics.fmean)
        costs = costs_of(self._plan, means, self._entrant.run.boundaries)
        self.simulated.append(simulate(self._plan, costs).makespan_seconds)

    @contextmanager
    def _observed(self) -> Iterator[None]:
        entrant = self._entrant
        if isinstance(entrant.forward_backward, ChunkedSchedule):
            entrant.forward_backward.observer = self._timer
            yield
            return
        entrant.trained.transformer.timers = ObservedTimers(self._timer, self._plan, dist.get_rank())
        yield
        entrant.trained.transformer.timers = None

    def row(self, reference: Measured) -> dict[str, object]:
        """What is printed, beside 1F1B as it is and as it is simulated."""
        measured = pipeline.ratios(reference.seconds, self.seconds)
        expected = pipeline.ratios(reference.simulated, self.simulated)
        row: dict[str, object] = {"seconds": round(statistics.median(self.seconds), 4)}
        row["ratio"], row["middle_half"] = median_and_spread(measured)
        row["simulated_seconds"] = round(statistics.median(self.simulated), 4)
        row["simulated_ratio"], _ = median_and_spread(expected)
        row["kept"], row["kept_middle_half"] = median_and_spread(pipeline.ratios(measured, expected))
        return row


def main() -> None:
    """Measure and print one JSON object per schedule on rank 0."""
    options = pipeline.parser(__doc__.split("\n")[0])
    options.add_argument("--rounds", type=int, default=3, help="steps of every schedule")
    arguments = options.parse_args()
    pipeline.start()
    disturbance = Disturbance()
    stages, k = dist.get_world_size(), arguments.chunks
    resolve = partial(pipeline.resolve, arguments)
    virtual = f"--num-layers-per-virtual-pipeline-stage {arguments.layers // stages // 2}"
    runs = {
        "1f1b": resolve(schedule="1f1b", chunks=1),
        "interleaved": resolve(schedule="interleaved", chunks=1, extra=virtual),
        "seq1f1b, one chunk": resolve(schedule="seq1f1b", chunks=1),
        "seq1f1b": resolve(schedule="seq1f1b", chunks=k),
        "seq1f1b-interleaved": resolve(schedule="seq1f1b-interleaved", chunks=k, extra=virtual),
        "seq1f1b-zb": resolve(schedule="seq1f1b-zb", chunks=k),
    }
    entrants = pipeline.contestants(runs)
    pipeline.warm_up(entrants)
    measured = {entrant.name: Measured(entrant) for entrant in entrants}
    for number in range(arguments.rounds):
        for entrant in pipeline.in_turn(entrants, number):
            measured[entrant.name].step()
    if dist.get_rank() == 0:
        machine = disturbance.shares()
        print(json.dumps({"stages": stages, "microbatches": arguments.microbatches, "chunks": k, **machine}))
        for name, each in measured.items():
            print(f"{name:>20} {json.dumps(each.row(measured['1f1b']))}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
