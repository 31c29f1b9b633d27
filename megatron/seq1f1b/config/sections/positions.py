"""How the GPT knows where a token stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class PositionOptions:
    """Positions: learned ones, rotary ones or none."""

    position_embedding_type: Literal["learned_absolute", "rope", "none"] = "learned_absolute"
    """Learned positions, rotary ones, or none but the order that causal attention sees."""
    max_position_embeddings: int | None = None
    """Longest sequence of the position table; the sequence length."""
    rotary_base: int = 10000
    """Base of the rotary periods."""
    rotary_percent: float = 1.0
    """Share of each head that rotates."""
    rotary_interleaved: bool = False
    """Turn neighbouring channels together, instead of those of the two halves of a head."""
    rotary_seq_len_interpolation_factor: float | None = None
    """Divide positions by this; none."""
    use_rope_scaling: bool = False
    """Stretch the long rotary periods as Llama 3.1 does, from 8192 tokens."""
    rope_scaling_factor: float = 8.0
    """With --use-rope-scaling: how far."""
    no_rope_freq: int | None = None
    """Every so many layers have no rotary positions; all have."""
