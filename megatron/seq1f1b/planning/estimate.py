"""Peak memory of every stage in closed form: a plan's occupancy times what the layers hold.

Walks the actions of each rank once: a forward adds what its chunk's layers save, a backward frees
it, messages on their way count while they are there, and every action has its temporaries. Buffers of
the KV cache and of received messages are pooled: the most that a stage ever holds, it holds always.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from megatron.seq1f1b.chunk import Boundaries, Chunk, chunks_from
from megatron.seq1f1b.model.memory import GRADIENT_BYTES, KVHolding, ModelMemory
from megatron.seq1f1b.planning.memory_report import ALLOCATOR_OVERHEAD, MemoryReport, StageMemory
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
    chunks = chunks_from(boundaries)
    stages = [
        _Walk(memory, plan, chunks, layers_of_virtual_stages, micro_batch_size, rank).result()
        for rank in (range(plan.num_stages) if ranks is None else ranks)
    ]
    return MemoryReport(
        stages=stages,
        allocator_overhead=allocator_overhead,
        has_experts=memory.dimensions.experts is not None,
    )


@dataclass(frozen=True, slots=True)
class _Held:
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

    def __init__(
        self,
        memory: ModelMemory,
        plan: Plan,
        chunks: Sequence[Chunk],
        layers: Sequence[int],
        micro_batch_size: int,
        rank: int,
    ) -> None:
        self._memory = memory
        self._plan = plan
        self._chunks = chunks
        self._layers = layers
        self._batch = micro_batch_size
        self._rank = rank
        self._parts = range(rank, plan.num_all_virtual_stages, plan.num_stages)
        self._communicates = plan.has_communication
        self._held = _Held()
        self._on_the_way: dict[Channel, float] = {}
        self._received: Counter[Chunk] = Counter()
        self._most_received: Counter[int] = Counter()
        self._by_action: dict[str, _Held] = {}
        """The most that comes and goes during every action."""

    def result(self) -> StageMemory:
        """Walk, and add what is there all the time."""
        for action in self._plan.actions[self._rank]:
            self._step(action)
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
        is_split = any(action.kind is W for action in self._plan.actions[self._rank])
        for_layers = 0.0 if is_split else memory.gathered_bytes_per_token()
        gathered = max(for_layers, memory.gathered_for_experts_bytes_per_token()) * longest * self._batch
        peak_action, peak = max(self._by_action.items(), key=lambda item: item[1].total)
        staying = tables + received + gathered + kv_caches + dkv
        return StageMemory(
            stage=self._rank,
            parameters_bytes=round(parameters * memory.element_bytes),
            gradients_bytes=round(parameters * GRADIENT_BYTES),
            optimizer_bytes=round(memory.optimizer_bytes(parameters, of_experts=of_experts)),
            activations_bytes=round(peak.activations + tables),
            kv_cache_bytes=round(kv_caches),
            dkv_bytes=round(dkv),
            logits_bytes=round(peak.logits),
            communication_bytes=round(peak.messages + received + gathered),
            peak_action=peak_action,
            by_action={action: round(held.total + staying) for action, held in self._by_action.items()},
        )

    def _step(self, action: Action) -> None:
        kind, chunk = action.kind, self._chunks[action.chunk]
        message = self._message(chunk)
        if kind.is_receive:
            self._receive(chunk)
        elif kind.is_send:
            channel = channel_of(action, self._plan)
            before = self._on_the_way.get(channel, 0.0)
            self._on_the_way[channel] = message
            self._held = self._held.plus(messages=message - before)
        elif kind is F:
            self._forward(action, chunk)
        elif kind is W:
            gradient = self._memory.weight_temporary_bytes(has_head=self._is_last(action))
            gathered = chunk.length * self._batch * self._memory.gathered_bytes_per_token()
            self._note(action, self._held.plus(gradient + gathered))
            self._finish(action, chunk)
            self._held = self._held.plus(-self._pending(action, chunk), -self._pending_head(action, chunk))
        else:
            self._backward(action, chunk)

    def _forward(self, action: Action, chunk: Chunk) -> None:
        tokens, memory = chunk.length * self._batch, self._memory
        self._held = self._held.plus(self._saved(action, chunk), self._softmax(action, chunk))
        worst = self._held.plus(activations=tokens * memory.forward_temporary_bytes_per_token())
        if self._is_last(action):
            head = self._held.plus(logits=memory.head_forward_temporary_bytes(tokens))
            worst = max(worst, head, key=lambda held: held.total)
        self._note(action, worst)

    def _backward(self, action: Action, chunk: Chunk) -> None:
        tokens, memory = chunk.length * self._batch, self._memory
        temporary = self._batch * memory.backward_temporary_bytes(
            chunk.length, chunk.start, is_gradient_received=self._receives(action)
        )
        kept = self._pending(action, chunk) if action.kind is I else 0.0
        kept_head = self._pending_head(action, chunk) if action.kind is I else 0.0
        softmax = self._softmax(action, chunk)
        # The probabilities are gone when the layers' backward starts.
        worst = self._held.plus(temporary, kept_head - softmax)
        if self._is_last(action):
            head = self._held.plus(logits=memory.head_backward_temporary_bytes(tokens))
            worst = max(worst, head, key=lambda held: held.total)
        self._note(action, worst)
        self._held = self._held.plus(kept - self._saved(action, chunk), kept_head - softmax)
        if action.kind is B:
            self._finish(action, chunk)
        if action.virtual_stage == self._plan.first_virtual_stage:
            embedding = memory.embedding_backward_bytes(tokens)
            self._note(action, self._held.plus(activations=embedding))

    def _receive(self, chunk: Chunk) -> None:
        """A buffer of the chunk's length is in use until the chunk's last action."""
        self._received[chunk] += 1
        in_use = sum(count for other, count in self._received.items() if other.length == chunk.length)
        self._most_received[chunk.length] = max(self._most_received[chunk.length], in_use)

    def _finish(self, action: Action, chunk: Chunk) -> None:
        """Its buffers can be used again; they stay."""
        self._received[chunk] -= sum(self._receives(action._replace(kind=kind)) for kind in (F, B))

    def _note(self, action: Action, held: _Held) -> None:
        key = str(action)
        self._by_action[key] = max(held, self._by_action.get(key, held), key=lambda held: held.total)

    # --- sizes

    def _saved(self, action: Action, chunk: Chunk) -> float:
        """What one unit's forward keeps beside the cache."""
        memory, layers = self._memory, self._layers[action.virtual_stage]
        saved = chunk.length * memory.part_bytes_per_token(layers, micro_batch_size=self._batch)
        if action.virtual_stage == self._plan.first_virtual_stage:
            saved += chunk.length * memory.embedding_mask_bytes_per_token()
        if memory.kv_holding is KVHolding.CONCATENATED:
            rows = chunk.length + (chunk.stop if chunk.count > 1 else 0)
            saved += rows * memory.kv_bytes_per_token() * layers
        elif chunk.count == 1:
            saved += chunk.length * memory.kv_bytes_per_token() * layers
        if self._is_last(action):
            saved += chunk.length * memory.head_bytes_per_token()
        # The first layer's input is the message as it was received.
        received = self._message(chunk) if self._receives(action._replace(kind=F)) else 0.0
        return saved * self._batch - received

    def _softmax(self, action: Action, chunk: Chunk) -> float:
        if not self._is_last(action):
            return 0.0
        return self._memory.softmax_bytes(chunk.length * self._batch)

    def _pending(self, action: Action, chunk: Chunk) -> float:
        per_layer = chunk.length * self._batch * self._memory.pending_bytes_per_token()
        return per_layer * self._layers[action.virtual_stage]

    def _pending_head(self, action: Action, chunk: Chunk) -> float:
        if not self._is_last(action) or self._memory.cross_entropy_slice_tokens is not None:
            return 0.0
        return chunk.length * self._batch * self._memory.pending_head_bytes_per_token()

    def _message(self, chunk: Chunk) -> float:
        return chunk.length * self._batch * self._memory.message_bytes_per_token()

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

    def _is_last(self, action: Action) -> bool:
        return action.virtual_stage == self._plan.last_virtual_stage

    def _receives(self, action: Action) -> bool:
        """Whether the action consumes a message."""
        if not self._communicates:
            return False
        edge = self._plan.first_virtual_stage if action.kind is F else self._plan.last_virtual_stage
        return action.virtual_stage != edge
