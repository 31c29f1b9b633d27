"""Peak memory of every stage in closed form: a plan's occupancy times what the layers hold.

Walks the actions of each rank once: a forward adds what its chunk's layers save, a backward frees
it, messages on their way count while they are there, and every action has its temporaries. Buffers of
the KV cache and of received messages are pooled: the most that a stage ever holds, it holds always.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from megatron.seq1f1b.chunk import Boundaries, Chunk, chunks_from
from megatron.seq1f1b.model.memory import KVHolding, ModelMemory
from megatron.seq1f1b.planning.memory_report import ALLOCATOR_OVERHEAD, MemoryReport, StageMemory
from megatron.seq1f1b.planning.unit_memory import UnitMemories, UnitMemory
from megatron.seq1f1b.schedule import Action, ActionKind, Channel, Plan, channel_of
from megatron.seq1f1b.schedule.occupancy import occupancy_of

F, B, I, W = ActionKind.F, ActionKind.B, ActionKind.I, ActionKind.W  # noqa: E741


def estimate(
    memory: ModelMemory,
    plan: Plan,
    boundaries: Boundaries,
    *,
    layers_of_virtual_stages: Sequence[int],
    micro_batch_size: int = 1,
    allocator_overhead: float = ALLOCATOR_OVERHEAD,
    ranks: Sequence[int] | None = None,
) -> MemoryReport:
    """What every stage will hold at its peak.

    Args:
        memory: the model on one rank.
        plan: with its communication, or without (then messages are not counted).
        boundaries: of the chunks.
        layers_of_virtual_stages: layers by virtual stage over the whole pipeline.
        micro_batch_size: sequences per microbatch.
        allocator_overhead: reserved over live bytes, an assumption.
        ranks: which stages to walk; all.
    """
    units = UnitMemories(
        memory=memory,
        plan=plan,
        has_communication=plan.has_communication,
        layers_of_virtual_stages=layers_of_virtual_stages,
        micro_batch_size=micro_batch_size,
    )
    stages = [
        _Walk(units, chunks_from(boundaries), rank).result()
        for rank in (range(plan.num_stages) if ranks is None else ranks)
    ]
    return MemoryReport(
        stages=stages,
        allocator_overhead=allocator_overhead,
        has_experts=memory.dimensions.experts is not None,
    )


class _Held(NamedTuple):
    """Bytes that come and go with actions."""

    activations: float = 0.0
    logits: float = 0.0
    messages: float = 0.0

    @property
    def total(self) -> float:
        return self.activations + self.logits + self.messages

    def plus(self, activations: float = 0.0, logits: float = 0.0, messages: float = 0.0) -> _Held:
        return _Held(self.activations + activations, self.logits + logits, self.messages + messages)


class _Walk:
    """One rank's actions, in order."""

    def __init__(self, units: UnitMemories, chunks: Sequence[Chunk], rank: int) -> None:
        self._memory, self._plan = units.memory, units.plan
        self._chunks = chunks
        self._layers = units.layers_of_virtual_stages
        self._batch = units.micro_batch_size
        self._rank = rank
        self._parts = range(rank, self._plan.num_all_virtual_stages, self._plan.num_stages)
        self._unit = cache(lambda virtual_stage, chunk: units.of(virtual_stage, chunks[chunk]))
        self._held = _Held()
        self._on_the_way: dict[Channel, float] = {}
        self._received: Counter[int] = Counter()
        """Buffers in use, by their length."""
        self._most_received: Counter[int] = Counter()
        self._by_action: dict[Action, _Held] = {}
        """The most that comes and goes during every action."""

    def result(self) -> StageMemory:
        """Walk, and add what is there all the time."""
        actions = self._plan.actions[self._rank]
        for action in actions:
            self._step(action, self._unit(action.virtual_stage, action.chunk))
        parameters = self._parameters()
        of_experts = sum(self._layers[part] for part in self._parts) * self._memory.layer_expert_parameters()
        kv_caches, dkv = self._pooled()
        memory, longest = self._memory, max(chunk.length for chunk in self._chunks)
        tables = memory.rotary_table_bytes_per_token() * self._chunks[-1].stop * len(self._parts)
        received = sum(
            length * count * self._batch * memory.message_bytes_per_token()
            for length, count in self._most_received.items()
        )
        # Layers whose backward is split gather anew each time.
        is_split = any(action.kind is W for action in actions)
        for_layers = 0.0 if is_split else memory.gathered_bytes_per_token()
        gathered = max(for_layers, memory.gathered_for_experts_bytes_per_token()) * longest * self._batch
        peak_action, peak = max(self._by_action.items(), key=lambda item: item[1].total)
        staying = tables + received + gathered + kv_caches + dkv
        return StageMemory(
            stage=self._rank,
            parameters_bytes=round(parameters * memory.element_bytes),
            gradients_bytes=round(parameters * memory.update.gradient_bytes),
            optimizer_bytes=round(memory.optimizer_bytes(parameters, of_experts=of_experts)),
            activations_bytes=round(peak.activations + tables),
            kv_cache_bytes=round(kv_caches),
            dkv_bytes=round(dkv),
            logits_bytes=round(peak.logits),
            communication_bytes=round(peak.messages + received + gathered),
            peak_action=str(peak_action),
            by_action={str(action): round(held.total + staying) for action, held in self._by_action.items()},
        )

    def _step(self, action: Action, unit: UnitMemory) -> None:
        kind = action.kind
        if kind.is_receive:
            self._receive(unit)
        elif kind.is_send:
            channel = channel_of(action, self._plan)
            before = self._on_the_way.get(channel, 0.0)
            self._on_the_way[channel] = unit.message
            self._held = self._held.plus(messages=unit.message - before)
        elif kind is F:
            self._held = self._held.plus(unit.saved, unit.softmax)
            self._note(action, self._held.plus(unit.forward), self._held.plus(logits=unit.head_forward))
        elif kind is W:
            self._note(action, self._held.plus(unit.weight_gradient))
            self._finish(unit)
            self._held = self._held.plus(-unit.pending, -unit.pending_head)
        else:
            self._backward(action, unit)

    def _backward(self, action: Action, unit: UnitMemory) -> None:
        is_split = action.kind is I
        kept, kept_head = (unit.pending, unit.pending_head) if is_split else (0.0, 0.0)
        growth = unit.pending_growth if is_split else 0.0
        # The probabilities are gone when the layers' backward starts.
        layers = self._held.plus(unit.backward + growth, kept_head - unit.softmax)
        self._note(action, layers, self._held.plus(logits=unit.head_backward))
        self._held = self._held.plus(kept - unit.saved, kept_head - unit.softmax)
        if not is_split:
            self._finish(unit)
        self._note(action, self._held.plus(activations=unit.embedding_backward))

    def _receive(self, unit: UnitMemory) -> None:
        """A buffer of the chunk's length is in use until the chunk's last action."""
        self._received[unit.length] += 1
        most = max(self._most_received[unit.length], self._received[unit.length])
        self._most_received[unit.length] = most

    def _finish(self, unit: UnitMemory) -> None:
        """Its buffers can be used again; they stay."""
        self._received[unit.length] -= unit.num_received

    def _note(self, action: Action, *moments: _Held) -> None:
        before = self._by_action.get(action, _Held())
        self._by_action[action] = max(before, *moments, key=lambda held: held.total)

    # --- what is there all the time

    def _pooled(self) -> tuple[float, float]:
        """Most keys and values, and most of their gradients, that the rank ever holds."""
        memory, last = self._memory, self._chunks[-1]
        if last.count == 1 or memory.kv_holding is KVHolding.CONCATENATED:
            return 0.0, 0.0
        shares = [chunk.length / last.stop for chunk in self._chunks]
        occupancy = occupancy_of(self._plan, self._rank, shares)
        layers = max(self._layers[part] for part in self._parts) * self._batch
        kv = occupancy.peak_kv_caches * layers * last.stop * memory.kv_bytes_per_token()
        return kv, occupancy.peak_dkv_buffers * layers * last.start * memory.dkv_bytes_per_token()

    def _parameters(self) -> float:
        plan, memory = self._plan, self._memory
        count = sum(self._layers[part] for part in self._parts) * memory.layer_parameters()
        if plan.first_virtual_stage in self._parts:
            count += memory.embedding_parameters()
        if plan.last_virtual_stage in self._parts:
            count += memory.head_parameters(is_alone=plan.num_all_virtual_stages == 1)
        return count
