"""The predicted step of every schedule beside the measured one.

    torchrun --standalone --nproc_per_node 2 benchmarks/predicted_step.py
    torchrun --standalone --nproc_per_node 4 benchmarks/predicted_step.py

Every round times, one after the other: a step of each of our schedules action by action, with sequences
whole and with sequences cut evenly; a step of every schedule as a whole, forward and backward without
the optimizer; and messages between two stages. Costs in tokens and pairs are fitted to the round's
actions for each virtual stage, from which the simulator says how long a step of each schedule takes,
its actions as uneven as the timed ones, cut as runs are, by FLOPs: a way of cutting that no action was
timed with. Megatron-Core's own schedules are predicted from the actions of ours: they do the same work
in another order.

One JSON object per schedule. `predicted_over_measured` is the median over rounds, since a machine
that others share may be twice as slow a minute later; `middle_half` says how far rounds lie apart. The
aim is within 10 % of 1.
"""

from __future__ import annotations

import json
import os
import statistics
from dataclasses import dataclass, replace

import pipeline
import torch
import torch.distributed as dist
from disturbance import Disturbance, median_and_spread

from megatron.seq1f1b.partition import partition
from megatron.seq1f1b.planning.profiled import FittedCosts
from megatron.seq1f1b.planning.unevenness import Unevenness, expected_seconds, unevenness_of
from megatron.seq1f1b.runtime.link_times import LinkTimes, time_links
from megatron.seq1f1b.training.calibrate import TimedCut, fit_rounds
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


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the timed actions of a source say."""

    costs: FittedCosts
    of_whole: Unevenness
    """How uneven the actions on whole sequences were; they are longer than those on chunks."""
    of_chunks: Unevenness

    def predicted_seconds(self, run: Run, link: LinkTimes) -> float:
        """The step to expect of a run."""
        plan = run.make_plan(run.layout.num_microbatches, False)
        message_bytes = float(run.config.model.hidden_size * ELEMENT_BYTES)
        costs = replace(
            self.costs.costs(run.boundaries, message_bytes_per_token=message_bytes),
            latency_seconds=link.latency_seconds,
            bandwidth_bytes_per_second=link.bytes_per_second,
        )
        uneven = self.of_whole if plan.num_chunks == 1 else self.of_chunks
        return expected_seconds(plan, costs, uneven)


class Source:
    """One of our schedules, whose timed actions price the schedules that share its model parts."""

    def __init__(self, cut: pipeline.Contestant, whole: pipeline.Contestant) -> None:
        self._virtual_stages = cut.run.layout.num_virtual_stages
        seq_length, chunks = cut.run.config.training.seq_length, cut.run.config.schedule.pipe_sp_splits
        even = partition("average", seq_length=seq_length, chunks=chunks)
        self._cuts = [
            TimedCut(whole.run, whole.run.boundaries, whole.trained, whole.data),
            TimedCut(cut.run, even, cut.trained, cut.data),
        ]

    def step(self) -> None:
        """A timed step with whole sequences, and one with sequences cut evenly."""
        use_virtual_stages(self._virtual_stages)
        for cut in self._cuts:
            cut.step()

    def found(self) -> Found:
        """What the virtual stages cost in the steps since the last call.

        Means, not medians: a step adds its actions up, slow ones included.
        """
        taken = [(cut.boundaries, cut.taken()) for cut in self._cuts]
        whole, cut = (unevenness_of([timed]) for _, timed in taken)
        return Found(costs=fit_rounds([taken], statistics.fmean), of_whole=whole, of_chunks=cut)


def first_link(*num_bytes: int) -> LinkTimes:
    """Messages of these sizes between the first two stages, idle; equal on every process."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    assert dist.group.WORLD is not None
    found = time_links(dist.group.WORLD, num_bytes=num_bytes, repeats=PINGS, device=device)
    told = found if dist.get_rank() == 0 else [None]
    dist.broadcast_object_list(told, src=0)
    return told[0]


class Rounds:
    """What every round predicted and measured, by schedule."""

    def __init__(self, entrants: dict[str, pipeline.Contestant]) -> None:
        self._entrants = entrants
        self._sources = {
            name: Source(entrants[name], entrants[WHOLE.format(name)])
            for name in dict.fromkeys(MEASURED_WITH.values())
        }
        run = entrants["1f1b"].run
        sequence_bytes = ELEMENT_BYTES * run.config.model.hidden_size * run.config.training.seq_length
        self._message_bytes = (ELEMENT_BYTES, sequence_bytes)
        self.predicted: dict[str, list[float]] = {name: [] for name in MEASURED_WITH}
        self.measured: dict[str, list[float]] = {name: [] for name in MEASURED_WITH}
        self.fit_errors: dict[str, list[float]] = {name: [] for name in self._sources}

    def warm_up(self) -> None:
        """Connections, buffers and first touches, in no round."""
        pipeline.warm_up([self._entrants[name] for name in MEASURED_WITH])
        for source in self._sources.values():
            source.step()
            source.found()

    def add(self, number: int) -> None:
        """One more round. A source and what it prices are neighbours in time."""
        for name, source in self._sources.items():
            source.step()
            served = [self._entrants[each] for each, by in MEASURED_WITH.items() if by == name]
            for entrant in pipeline.in_turn(served, number):
                self.measured[entrant.name].append(entrant.seconds())
        link = first_link(*self._message_bytes)
        found = {name: source.found() for name, source in self._sources.items()}
        for name, each in found.items():
            self.fit_errors[name].append(each.costs.worst_relative_error)
        for name, by in MEASURED_WITH.items():
            self.predicted[name].append(found[by].predicted_seconds(self._entrants[name].run, link))

    def row(self, name: str) -> dict[str, object]:
        """What is printed of one schedule."""
        run = self._entrants[name].run
        ratio, middle_half = median_and_spread(pipeline.ratios(self.predicted[name], self.measured[name]))
        return {
            "schedule": name,
            "stages": dist.get_world_size(),
            "microbatches": run.layout.num_microbatches,
            "chunks": run.config.schedule.pipe_sp_splits,
            "seq_length": run.config.training.seq_length,
            "predicted_seconds": round(statistics.median(self.predicted[name]), 4),
            "measured_seconds": round(statistics.median(self.measured[name]), 4),
            "predicted_over_measured": ratio,
            "middle_half": middle_half,
            "rounds": len(self.measured[name]),
            "worst_fit_error": round(statistics.median(self.fit_errors[MEASURED_WITH[name]]), 4),
        }


def main() -> None:
    """Predict and measure in turn; print one JSON object per schedule on rank 0."""
    options = pipeline.parser(__doc__.split("\n")[0])
    options.add_argument("--rounds", type=int, default=7, help="each predicts and measures every schedule")
    options.set_defaults(seq_length=1024, microbatches=int(os.environ.get("WORLD_SIZE", "4")))
    arguments = options.parse_args()
    pipeline.start()
    disturbance, stages, k = Disturbance(), dist.get_world_size(), arguments.chunks
    virtual = f"--num-layers-per-virtual-pipeline-stage {arguments.layers // stages // 2}"
    runs = {}
    for name, source in MEASURED_WITH.items():
        extra, is_whole = virtual if "interleaved" in name else "", not name.startswith("seq1f1b")
        runs[name] = pipeline.resolve(arguments, schedule=name, chunks=1 if is_whole else k, extra=extra)
        runs[WHOLE.format(source)] = pipeline.resolve(arguments, schedule=source, chunks=1, extra=extra)
    rounds = Rounds({entrant.name: entrant for entrant in pipeline.contestants(runs)})
    rounds.warm_up()
    for number in range(arguments.rounds):
        rounds.add(number)
    for name in MEASURED_WITH if dist.get_rank() == 0 else ():
        print(json.dumps({**rounds.row(name), **disturbance.shares()}), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
