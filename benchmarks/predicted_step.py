"""The predicted step of every schedule beside the measured one.

    torchrun --standalone --nproc_per_node 2 benchmarks/predicted_step.py
    torchrun --standalone --nproc_per_node 4 benchmarks/predicted_step.py

First a few steps are timed action by action, with sequences whole and cut in two ways; costs in tokens
and pairs are fitted to them for each virtual stage, and the price of a message is measured between two
idle ranks. Then the simulator says how long a step of each schedule takes, and after that steps of all
schedules are run in turn and timed as wholes: forward and backward, without the optimizer. The times of
Megatron-Core's own schedules are predicted from ours: they do the same work in another order. One JSON
object per schedule; the aim is predicted_over_measured within 10 % of 1.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import replace

import torch
import torch.distributed as dist
from pipeline import (
    Contestant,
    StealMeter,
    alternate,
    contestants,
    parser,
    resolve,
    start,
    training_data,
)

from megatron.seq1f1b.planning.profiled import FittedCosts, fit_costs
from megatron.seq1f1b.runtime.link_times import LinkTimes, time_links
from megatron.seq1f1b.schedule import make_plan, simulate, with_communication
from megatron.seq1f1b.training.calibrate import cuts, measured_samples
from megatron.seq1f1b.training.prepare import Run
from megatron.seq1f1b.upstream.parallel import use_virtual_stages

MEASURED_WITH = {
    "1f1b": "seq1f1b",
    "seq1f1b": "seq1f1b",
    "interleaved": "seq1f1b-interleaved",
    "seq1f1b-interleaved": "seq1f1b-interleaved",
    "seq1f1b-zb": "seq1f1b-zb",
}
"""Whose actions price a schedule's: those with the same model parts, and the same halves of backward."""
WHOLE = "{}, whole sequences"
ELEMENT_BYTES = 4
PINGS = 20


def fitted(entrants: dict[str, Contestant], schedule: str) -> FittedCosts:
    """Costs of a schedule's virtual stages, from steps with whole and with cut sequences."""
    samples = []
    for name in (schedule, WHOLE.format(schedule)):
        run, trained = entrants[name].run, entrants[name].trained
        use_virtual_stages(run.layout.num_virtual_stages)
        for boundaries in cuts(run):
            samples += measured_samples(run, boundaries, trained, training_data(run))
    return fit_costs(samples)


def first_link(*num_bytes: int) -> LinkTimes:
    """Messages of these sizes between the first two stages, idle; equal on every process."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    assert dist.group.WORLD is not None
    found = time_links(dist.group.WORLD, num_bytes=num_bytes, repeats=PINGS, device=device)
    told = found if dist.get_rank() == 0 else [None]
    dist.broadcast_object_list(told, src=0)
    return told[0]


def predicted_seconds(run: Run, costs: FittedCosts, *, latency: float, bandwidth: float) -> float:
    """The simulated step of a run."""
    plan = make_plan(
        run.layout.schedule,
        stages=run.config.parallel.pipeline_model_parallel_size,
        microbatches=run.layout.num_microbatches,
        chunks=run.config.schedule.pipe_sp_splits,
        virtual_stages=run.layout.num_virtual_stages,
    )
    tables = costs.costs(
        run.boundaries, message_bytes_per_token=float(run.config.model.hidden_size * ELEMENT_BYTES)
    )
    network = replace(tables, latency_seconds=latency, bandwidth_bytes_per_second=bandwidth)
    return simulate(with_communication(plan), network).makespan_seconds


def main() -> None:
    """Calibrate, predict, measure, print one JSON object per schedule on rank 0."""
    options = parser(__doc__.split("\n")[0])
    options.add_argument("--rounds", type=int, default=7, help="measured steps of every schedule")
    options.set_defaults(seq_length=2048)
    arguments = options.parse_args()
    start()
    steal, stages, k = StealMeter(), dist.get_world_size(), arguments.chunks
    virtual = f"--num-layers-per-virtual-pipeline-stage {arguments.layers // stages // 2}"
    runs = {}
    for name, source in MEASURED_WITH.items():
        extra, is_whole = virtual if "interleaved" in name else "", not name.startswith("seq1f1b")
        runs[name] = resolve(arguments, schedule=name, chunks=1 if is_whole else k, extra=extra)
        runs[WHOLE.format(source)] = resolve(arguments, schedule=source, chunks=1, extra=extra)
    entrants = {entrant.name: entrant for entrant in contestants(runs)}
    costs = {source: fitted(entrants, source) for source in dict.fromkeys(MEASURED_WITH.values())}
    small, large = ELEMENT_BYTES * arguments.hidden, ELEMENT_BYTES * arguments.hidden * arguments.seq_length
    link = first_link(small, large)
    latency, bandwidth = link.latency_seconds, link.bytes_per_second
    predicted = {
        name: predicted_seconds(runs[name], costs[source], latency=latency, bandwidth=bandwidth)
        for name, source in MEASURED_WITH.items()
    }
    seconds = alternate([entrants[name] for name in MEASURED_WITH], rounds=arguments.rounds)
    for name, source in MEASURED_WITH.items():
        measured = statistics.median(seconds[name])
        row = {
            "schedule": name,
            "stages": stages,
            "microbatches": arguments.microbatches,
            "chunks": runs[name].config.schedule.pipe_sp_splits,
            "predicted_seconds": round(predicted[name], 4),
            "measured_seconds": round(measured, 4),
            "predicted_over_measured": round(predicted[name] / measured, 4),
            "worst_fit_error": round(costs[source].worst_relative_error, 4),
            "stolen_processor_share": steal.share(),
        }
        if dist.get_rank() == 0:
            print(json.dumps(row), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
