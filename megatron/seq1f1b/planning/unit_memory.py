"""What the actions of one virtual stage on one chunk hold, in bytes: alike for every microbatch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from megatron.seq1f1b.chunk import Chunk
from megatron.seq1f1b.model.memory import KVHolding, ModelMemory
from megatron.seq1f1b.schedule import Plan


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitMemory:
    """Beside parameters and what is pooled; what only the first or last virtual stage has is 0 elsewhere."""

    length: int
    """Tokens of one sequence."""
    message: float
    """Of the hidden states that are sent or received."""
    num_received: int
    """Messages of the unit: its input, and the gradient of its output."""
    saved: float
    """Kept by a forward until backward."""
    softmax: float
    """Kept beside it by the loss."""
    forward: float
    """The worst moment of a forward's layers, beyond what it keeps."""
    head_forward: float
    """The same of the output layer and the loss."""
    backward: float
    head_backward: float
    pending: float
    """Kept from I to W."""
    pending_head: float
    pending_growth: float
    """What earlier layers have kept so beyond what they have freed, when I comes to the last one."""
    weight_gradient: float
    """The worst moment of W."""
    embedding_backward: float


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitMemories:
    """Of a plan's virtual stages."""

    memory: ModelMemory
    plan: Plan
    has_communication: bool
    layers_of_virtual_stages: Sequence[int]
    micro_batch_size: int

    def of(self, virtual_stage: int, chunk: Chunk) -> UnitMemory:
        """One unit's."""
        memory, plan, batch = self.memory, self.plan, self.micro_batch_size
        tokens, layers = chunk.length * batch, self.layers_of_virtual_stages[virtual_stage]
        is_first = virtual_stage == plan.first_virtual_stage
        is_last = virtual_stage == plan.last_virtual_stage
        has_input = self.has_communication and not is_first
        has_gradient = self.has_communication and not is_last
        backward = memory.backward_temporary_bytes(
            chunk.length, chunk.start, is_gradient_received=has_gradient
        )
        is_head_pending = is_last and memory.cross_entropy_slice_tokens is None
        pending = tokens * memory.pending_bytes_per_token() * layers
        message = tokens * memory.message_bytes_per_token()
        # The first layer's input is the message as it was received.
        saved = batch * self._saved(chunk, layers, is_first, is_last) - has_input * message
        return UnitMemory(
            length=chunk.length,
            message=message,
            num_received=has_input + has_gradient,
            saved=saved,
            softmax=memory.softmax_bytes(tokens) if is_last else 0.0,
            forward=tokens * memory.forward_temporary_bytes_per_token(),
            head_forward=memory.head_forward_temporary_bytes(tokens) if is_last else 0.0,
            backward=batch * backward,
            head_backward=memory.head_backward_temporary_bytes(tokens) if is_last else 0.0,
            pending=pending,
            pending_growth=max(0.0, pending - saved) * (1 - 1 / layers) if layers else 0.0,
            pending_head=tokens * memory.pending_head_bytes_per_token() if is_head_pending else 0.0,
            weight_gradient=memory.weight_temporary_bytes(has_head=is_last)
            + tokens * memory.gathered_bytes_per_token(),
            embedding_backward=memory.embedding_backward_bytes(tokens) if is_first else 0.0,
        )

    def _saved(self, chunk: Chunk, layers: int, is_first: bool, is_last: bool) -> float:
        """What a forward keeps of one sequence beside the cache."""
        memory, length = self.memory, chunk.length
        saved = length * memory.part_bytes_per_token(layers, micro_batch_size=self.micro_batch_size)
        if memory.kv_holding is KVHolding.CONCATENATED:
            rows = length + (chunk.stop if chunk.count > 1 else 0)
            saved += rows * memory.kv_bytes_per_token() * layers
        elif chunk.count == 1:
            saved += length * memory.kv_bytes_per_token() * layers
        if is_first:
            saved += length * memory.embedding_mask_bytes_per_token()
        if is_last:
            saved += length * memory.head_bytes_per_token()
        return saved
