"""Seconds of chunks on a device that is described by a profile, for the simulator.

Per layer and chunk: matrix products at the device's efficiency, which falls for few rows; flash
attention at its own, forward and backward; the traffic of everything between them; the messages of
tensor parallelism, which nothing hides; and launches. Messages between stages cross nodes where
the ranks of one stage fill a node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from megatron.seq1f1b.chunk import Boundaries, Chunk, chunks_from
from megatron.seq1f1b.model.flops import (
    BACKWARD_OF_ATTENTION,
    BACKWARD_OF_LINEAR,
    ModelDimensions,
    training_flops_per_sequence,
)
from megatron.seq1f1b.model.memory import ModelMemory, Recompute
from megatron.seq1f1b.planning.devices import Device
from megatron.seq1f1b.planning.stage_costs import CostOfChunk, stage_costs
from megatron.seq1f1b.schedule import Costs

TRAFFIC_PER_SAVED_BYTE = 3.0
"""What lies between matrix products is written once, and read about twice, in each direction."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceCosts:
    """A model on one device of a layout."""

    device: Device
    memory: ModelMemory
    micro_batch_size: int = 1
    data_parallel: int = 1

    def costs(self, boundaries: Boundaries, *, layers_of_virtual_stages: Sequence[int]) -> Costs:
        """The simulator's tables; the last virtual stage also has the head."""
        chunks = chunks_from(boundaries)
        costs = stage_costs(
            chunks,
            layers_of_virtual_stages,
            layer=CostOfChunk(
                forward=self.forward_seconds,
                backward=self.backward_seconds,
                weight_grad=self._matrix_seconds,
            ),
            head=CostOfChunk(
                forward=self.head_seconds,
                backward=lambda chunk: BACKWARD_OF_LINEAR * self.head_seconds(chunk),
                weight_grad=self.head_seconds,
            ),
        )
        return replace(
            costs,
            message_bytes=[self._tokens(chunk) * self.memory.message_bytes_per_token() for chunk in chunks],
            bandwidth_bytes_per_second=self._stage_bandwidth(),
            latency_seconds=self.device.latency_seconds,
        )

    def forward_seconds(self, chunk: Chunk) -> float:
        """One layer's forward."""
        attention = self._attention_flops(chunk) / self._attention_rate(is_forward=True)
        return self._matrix_seconds(chunk) + attention + self._between_seconds(chunk)

    def backward_seconds(self, chunk: Chunk) -> float:
        """One layer's whole backward, with what it recomputes."""
        matrices = BACKWARD_OF_LINEAR * self._matrix_seconds(chunk)
        flops = BACKWARD_OF_ATTENTION * self._attention_flops(chunk)
        attention = flops / self._attention_rate(is_forward=False)
        seconds = matrices + attention + self._between_seconds(chunk)
        if self.memory.recompute is Recompute.FULL:
            seconds += self.forward_seconds(chunk)
        elif self.memory.recompute is Recompute.SELECTIVE:
            seconds += self._attention_flops(chunk) / self._attention_rate(is_forward=True)
        return seconds

    def head_seconds(self, chunk: Chunk) -> float:
        """The vocabulary projection's forward."""
        flops = self._tokens(chunk) * self._dimensions.head_flops_per_token / self.memory.tensor_parallel
        return flops / self._matrix_rate(chunk)

    def step_extra_seconds(self, parameters: float) -> float:
        """After the last backward: gradients reduced, the optimizer's pass, parameters gathered.

        Nothing of it is assumed to overlap with computation.
        """
        gradient_bytes = self.memory.update.gradient_bytes
        exchanged = parameters * (gradient_bytes + self.memory.element_bytes)
        share = (self.data_parallel - 1) / self.data_parallel
        state_bytes = self.memory.optimizer_bytes(parameters) + gradient_bytes * parameters
        optimizer = 2.0 * state_bytes / self.device.memory_bytes_per_second
        return share * exchanged / self.device.network_bytes_per_second + optimizer

    def mfu(self, *, step_seconds: float, sequences: int, seq_length: int, num_devices: int) -> float:
        """Model FLOPs per second over the devices' peak."""
        flops = training_flops_per_sequence(self._dimensions, seq_length) * sequences
        return flops / step_seconds / (num_devices * self.device.peak_flops_per_second)

    @property
    def _dimensions(self) -> ModelDimensions:
        return self.memory.dimensions

    def _tokens(self, chunk: Chunk) -> int:
        return chunk.length * self.micro_batch_size

    def _matrix_rate(self, chunk: Chunk) -> float:
        tokens = self._tokens(chunk)
        share = tokens / (tokens + self.device.tokens_at_half_efficiency)
        return self.device.peak_flops_per_second * self.device.matrix_efficiency * share

    def _matrix_seconds(self, chunk: Chunk) -> float:
        flops = self._tokens(chunk) * self._dimensions.layer_flops_per_token / self.memory.tensor_parallel
        return flops / self._matrix_rate(chunk)

    def _attention_flops(self, chunk: Chunk) -> float:
        pairs = self._dimensions.pairs(chunk.start, chunk.stop) * self.micro_batch_size
        return pairs * self._dimensions.layer_flops_per_pair / self.memory.tensor_parallel

    def _attention_rate(self, *, is_forward: bool) -> float:
        device = self.device
        efficiency = (
            device.attention_forward_efficiency if is_forward else device.attention_backward_efficiency
        )
        return device.peak_flops_per_second * efficiency

    def _between_seconds(self, chunk: Chunk) -> float:
        """Launches, traffic of norms, activations and the like, and tensor-parallel messages."""
        tokens, saved = self._tokens(chunk), self.memory.saved_layer_bytes_per_token()
        traffic = tokens * saved * TRAFFIC_PER_SAVED_BYTE / self.device.memory_bytes_per_second
        return self.device.layer_overhead_seconds + traffic + self._tensor_parallel_seconds(tokens)

    def _tensor_parallel_seconds(self, tokens: int) -> float:
        """Two gathers and two scatters of the hidden states in each direction.

        And where ranks share groups of queries, one of all queries, keys and values.
        """
        ranks, sizes = self.memory.tensor_parallel, self._dimensions
        if ranks == 1:
            return 0.0
        widths = [sizes.hidden_size] * 4
        if sizes.num_query_groups < ranks:
            widths.append((sizes.num_query_heads + 2 * sizes.num_query_groups) * sizes.head_dim)
        is_inside = ranks <= self.device.devices_per_node
        device = self.device
        bandwidth = device.node_bytes_per_second if is_inside else device.network_bytes_per_second
        sent = tokens * sum(widths) * self.memory.element_bytes * (ranks - 1) / ranks
        return sent / bandwidth + len(widths) * device.latency_seconds

    def _stage_bandwidth(self) -> float:
        """Neighbouring stages are as many ranks apart as tensor and data parallelism have together."""
        is_inside = self.memory.tensor_parallel * self.data_parallel < self.device.devices_per_node
        return self.device.node_bytes_per_second if is_inside else self.device.network_bytes_per_second
