"""What actions and messages cost, as the simulator asks for it.

Seconds are given per (virtual stage, chunk): stages differ by their layers and the head, chunks by
their length and prefix.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from megatron.seq1f1b.errors import ConfigurationError
from megatron.seq1f1b.schedule.action import ActionKind
from megatron.seq1f1b.schedule.plan import Plan

Seconds = Sequence[Sequence[float]]
"""Seconds of one action by virtual stage, then chunk."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """Seconds of every compute action, the price of a message, and each chunk's share of tokens."""

    forward_seconds: Seconds
    backward_seconds: Seconds
    """Of B, the whole backward."""
    input_grad_seconds: Seconds
    weight_grad_seconds: Seconds
    token_shares: Sequence[float]
    """What part of a microbatch's tokens each chunk holds; they add up to 1."""
    message_bytes: Sequence[float] = ()
    """Bytes of one chunk's activations or their gradient; empty means that messages weigh nothing."""
    bandwidth_bytes_per_second: float = math.inf
    """Of one directed channel; messages on it follow one another."""
    latency_seconds: float = 0.0
    """From the end of a message's transfer until its receiver can use it."""

    def seconds_of(self, kind: ActionKind) -> Seconds:
        """The table of one kind of compute action."""
        tables = {
            ActionKind.F: self.forward_seconds,
            ActionKind.B: self.backward_seconds,
            ActionKind.I: self.input_grad_seconds,
            ActionKind.W: self.weight_grad_seconds,
        }
        return tables[kind]

    def transfer_seconds(self, chunk: int) -> float:
        """How long a chunk's message occupies its channel."""
        if not self.message_bytes:
            return 0.0
        return self.message_bytes[chunk] / self.bandwidth_bytes_per_second

    def check(self, plan: Plan) -> None:
        """Refuse tables that do not fit a plan's virtual stages and chunks.

        Raises:
            ConfigurationError: a table has the wrong size or an impossible entry.
        """
        num_rows, num_columns = plan.num_all_virtual_stages, plan.num_chunks
        for kind in (ActionKind.F, ActionKind.B, ActionKind.I, ActionKind.W):
            table = self.seconds_of(kind)
            if len(table) != num_rows or any(len(row) != num_columns for row in table):
                raise ConfigurationError(
                    f"costs of {kind.value} must have {num_rows} rows (virtual stages) of "
                    f"{num_columns} (chunks) to fit plan {plan.name!r}"
                )
            if not all(0.0 <= seconds < math.inf for row in table for seconds in row):
                raise ConfigurationError(f"costs of {kind.value} must be finite and not negative")
        per_chunk = {
            "token shares": self.token_shares,
            "message bytes": self.message_bytes or self.token_shares,
        }
        for what, values in per_chunk.items():
            if len(values) != num_columns:
                raise ConfigurationError(
                    f"{len(values)} {what} do not fit the {num_columns} chunks of plan {plan.name!r}"
                )
        if self.latency_seconds < 0.0 or not self.bandwidth_bytes_per_second > 0.0:
            raise ConfigurationError(
                f"latency of {self.latency_seconds} s and bandwidth of "
                f"{self.bandwidth_bytes_per_second} bytes/s are impossible; "
                "use a latency of at least 0 and a positive bandwidth"
            )


def unit_costs(
    plan: Plan,
    *,
    forward_seconds: float = 1.0,
    input_grad_seconds: float = 1.0,
    weight_grad_seconds: float = 1.0,
) -> Costs:
    """Equal costs for every virtual stage and chunk, B = I + W, and messages for nothing."""

    def everywhere(seconds: float) -> Seconds:
        return ((seconds,) * plan.num_chunks,) * plan.num_all_virtual_stages

    return Costs(
        forward_seconds=everywhere(forward_seconds),
        backward_seconds=everywhere(input_grad_seconds + weight_grad_seconds),
        input_grad_seconds=everywhere(input_grad_seconds),
        weight_grad_seconds=everywhere(weight_grad_seconds),
        token_shares=(1.0 / plan.num_chunks,) * plan.num_chunks,
    )
