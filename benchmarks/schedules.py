"""Step time of every schedule as a ratio to 1F1B, beside what the simulator says.

    torchrun --standalone --nproc_per_node 4 benchmarks/schedules.py --microbatches 4 --chunks 4

All run in one process group, in turn. F, B, I and W of ours are timed per stage and chunk while
the schedules run, and their means given to the simulator: a step adds its actions up, slow ones
included. The reference of both ratios is 1F1B: measured it is Megatron-Core's own function,
simulated it is the plan with times of whole sequences. `kept` is the measured ratio over the
simulated one. Megatron-Core's interleaved schedule is measured only.
"""

from __future__ import annotations

import json
import statistics
from itertools import pairwise

import torch.distributed as dist
from pipeline import Contestant, StealMeter, alternate, contestants, median_ratio, parser, resolve, start

from megatron.seq1f1b.runtime.chunked_schedule import ChunkedSchedule
from megatron.seq1f1b.runtime.timer import ActionSeconds, ActionTimer
from megatron.seq1f1b.schedule import ActionKind, Costs, Plan, make_plan, simulate

WHOLE = "seq1f1b, one chunk"


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


def simulated_seconds(entrant: Contestant, timer: ActionTimer, stages: int) -> float:
    """Makespan of the entrant's plan with its own measured times."""
    run = entrant.run
    plan = make_plan(
        run.layout.schedule,
        stages=stages,
        microbatches=run.layout.num_microbatches,
        chunks=run.config.schedule.pipe_sp_splits,
        virtual_stages=run.layout.num_virtual_stages,
    )
    return simulate(plan, costs_of(plan, timer.gathered(statistics.mean), run.boundaries)).makespan_seconds


def main() -> None:
    """Measure and print one JSON object on rank 0."""
    options = parser(__doc__.split("\n")[0])
    options.add_argument("--rounds", type=int, default=7, help="steps of every schedule")
    arguments = options.parse_args()
    start()
    steal = StealMeter()
    stages, k = dist.get_world_size(), arguments.chunks
    virtual = f"--num-layers-per-virtual-pipeline-stage {arguments.layers // stages // 2}"
    runs = {
        "1f1b": resolve(arguments, schedule="1f1b", chunks=1),
        "interleaved": resolve(arguments, schedule="interleaved", chunks=1, extra=virtual),
        WHOLE: resolve(arguments, schedule="seq1f1b", chunks=1),
        "seq1f1b": resolve(arguments, schedule="seq1f1b", chunks=k),
        "seq1f1b-interleaved": resolve(arguments, schedule="seq1f1b-interleaved", chunks=k, extra=virtual),
        "seq1f1b-zb": resolve(arguments, schedule="seq1f1b-zb", chunks=k),
    }
    entrants = contestants(runs)
    timers = {}
    for entrant in entrants:
        entrant.step()
        if isinstance(entrant.forward_backward, ChunkedSchedule):
            entrant.forward_backward.observer = timers[entrant.name] = ActionTimer()
    seconds = alternate(entrants, rounds=arguments.rounds, warmup=False)
    simulated = {
        entrant.name: simulated_seconds(entrant, timers[entrant.name], stages)
        for entrant in entrants
        if entrant.name in timers
    }
    rows = {}
    for name, taken in seconds.items():
        ratio = median_ratio(seconds["1f1b"], taken)
        rows[name] = {"seconds": round(statistics.median(taken), 4), "ratio": round(ratio, 4)}
        if name in simulated:
            expected = simulated[WHOLE] / simulated[name]
            rows[name] |= {
                "simulated_seconds": round(simulated[name], 4),
                "simulated_ratio": round(expected, 4),
                "kept": round(ratio / expected, 4),
            }
    if dist.get_rank() == 0:
        machine = {"stolen_processor_share": steal.share()}
        print(json.dumps({"stages": stages, "microbatches": arguments.microbatches, "chunks": k, **machine}))
        for name, row in rows.items():
            print(f"{name:>20} {json.dumps(row)}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
