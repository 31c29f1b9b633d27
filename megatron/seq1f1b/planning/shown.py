"""A plan with its simulation and what is known of its memory, in the forms that people look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from megatron.seq1f1b.chunk import Boundaries
from megatron.seq1f1b.errors import ConfigurationError
from megatron.seq1f1b.model.flops import partition_costs
from megatron.seq1f1b.partition import partition
from megatron.seq1f1b.planning.device_costs import DeviceCosts
from megatron.seq1f1b.planning.devices import Device
from megatron.seq1f1b.planning.estimate import estimate
from megatron.seq1f1b.planning.memory_report import GIB, MemoryReport
from megatron.seq1f1b.planning.models import NamedModel
from megatron.seq1f1b.planning.nearest import nearest
from megatron.seq1f1b.planning.timeline import Panel, caption_of, describe
from megatron.seq1f1b.schedule import (
    Plan,
    Simulation,
    plan_to_grid,
    simulate,
    unit_costs,
    with_communication,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """A simulated plan; `memory` where a model was named."""

    plan: Plan
    """As it was made or read, without the messages that a simulation may have added."""
    simulation: Simulation
    memory: MemoryReport | None
    costs: str
    """What the costs are, in words."""

    def to_object(self, *, has_stage_memory: bool) -> dict[str, object]:
        """What other programs read."""
        simulation = self.simulation
        shown: dict[str, object] = {
            "makespan_seconds": simulation.makespan_seconds,
            "bubble_fraction": simulation.bubble_fraction,
            "bubble_fraction_per_stage": simulation.bubble_fraction_per_stage,
            "peak_activation_microbatches_per_stage": simulation.peak_activation_microbatches_per_stage,
            "actions": [[str(action) for action in actions] for actions in self.plan.actions],
        }
        if has_stage_memory:
            shown["peak_kv_caches_per_stage"] = simulation.peak_kv_caches_per_stage
            shown["peak_dkv_buffers_per_stage"] = simulation.peak_dkv_buffers_per_stage
        if has_stage_memory and self.memory is not None:
            shown["peak_bytes_per_stage"] = [*map(self.memory.peak_bytes, self.memory.stages)]
        return shown

    def to_grid(self, *, has_stage_memory: bool) -> str:
        """The timeline as text, and what it amounts to."""
        simulation = self.simulation
        peaks = ", ".join(f"{peak:.4g}" for peak in simulation.peak_activation_microbatches_per_stage)
        text = (
            f"{plan_to_grid(simulation, seconds_per_column=_shortest(simulation))}\n\n"
            f"makespan {simulation.makespan_seconds:g} s ({self.costs}), "
            f"bubble {100 * simulation.bubble_fraction:.2f} %\n"
            f"peak activations per stage, in whole microbatches: {peaks}"
        )
        return f"{text}\n\n{self.stage_memory()}" if has_stage_memory else text

    def stage_memory(self) -> str:
        """A table of what every stage holds at most."""
        simulation = self.simulation
        columns = zip(
            simulation.peak_activation_microbatches_per_stage,
            simulation.peak_kv_caches_per_stage,
            simulation.peak_dkv_buffers_per_stage,
            strict=True,
        )
        lines = ["stage  activations (microbatches)  KV caches  dKV buffers"]
        lines += [
            f"{stage:>5}  {activations:>26.3f}  {caches:>9}  {buffers:>11}"
            for stage, (activations, caches, buffers) in enumerate(columns)
        ]
        return "\n".join(lines if self.memory is None else [*lines, "", self.memory.to_table()])

    def to_panel(self) -> Panel:
        """For pictures."""
        if self.memory is None:
            peaks = self.simulation.peak_activation_microbatches_per_stage
            labels = [f"holds {peak:.3g}" for peak in peaks]
            caption = caption_of(self.simulation)
        else:
            gib = [self.memory.peak_bytes(stage) / GIB for stage in self.memory.stages]
            labels = [f"{each:.1f} GiB" for each in gib]
            worst = max(range(len(gib)), key=lambda stage: gib[stage])
            caption = caption_of(self.simulation, memory=f"{gib[worst]:.1f} GiB", worst_stage=worst)
        return Panel(
            title=describe(self.plan), simulation=self.simulation, stage_labels=labels, caption=caption
        )


def show_units(plan: Plan, *, forward_seconds: float, backward_seconds: float, costs: str) -> Shown:
    """Equal costs for all chunks and stages, messages for nothing."""
    half = backward_seconds / 2
    unit = unit_costs(
        plan, forward_seconds=forward_seconds, input_grad_seconds=half, weight_grad_seconds=half
    )
    return Shown(plan=plan, simulation=simulate(plan, unit), memory=None, costs=costs)


def show_model(
    plan: Plan,
    *,
    model: NamedModel,
    device: Device,
    seq_length: int,
    tensor_parallel: int = 1,
    strategy: str = "uniform_comp",
) -> Shown:
    """A named model on a device, one sequence per microbatch, data parallelism 1.

    Raises:
        ConfigurationError: layers, heads or tokens do not divide.
    """
    memory = model.memory(tensor_parallel=tensor_parallel)
    layers = even_layers(model.num_layers, plan)
    boundaries: Boundaries = partition(
        strategy,
        seq_length=seq_length,
        chunks=plan.num_chunks,
        multiple_of=tensor_parallel,
        **partition_costs(memory.dimensions),
    )
    sending = with_communication(plan)
    costs = DeviceCosts(device=device, memory=memory).costs(boundaries, layers_of_virtual_stages=layers)
    return Shown(
        plan=plan,
        simulation=simulate(sending, costs),
        memory=estimate(memory, sending, boundaries, layers_of_virtual_stages=layers),
        costs=f"{device.name}: {device.source}",
    )


def even_layers(num_layers: int, plan: Plan) -> Sequence[int]:
    """Layers by virtual stage.

    Raises:
        ConfigurationError: they do not divide.
    """
    parts = plan.num_all_virtual_stages
    if num_layers % parts:
        virtual = plan.num_virtual_stages
        possible = (stages for stages in range(1, num_layers + 1) if num_layers % (stages * virtual) == 0)
        stages = nearest(plan.num_stages, possible)
        raise ConfigurationError(
            f"{num_layers} layers do not divide over {plan.num_stages} stages of {virtual} model "
            f"part{'s' * (virtual > 1)}; use {f'{stages} stages' if stages else 'other --virtual-stages'}"
        )
    return (num_layers // parts,) * parts


def _shortest(simulation: Simulation) -> float:
    """Seconds of the shortest compute action that takes any."""
    times = zip(simulation.plan.actions, simulation.starts, simulation.ends, strict=True)
    seconds = [
        end - start
        for actions, starts, ends in times
        for action, start, end in zip(actions, starts, ends, strict=True)
        if action.kind.is_compute and end > start
    ]
    return min(seconds, default=1.0)
