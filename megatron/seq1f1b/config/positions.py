"""What the position options mean together."""

from __future__ import annotations

from megatron.seq1f1b.config.options import Config, PositionOptions
from megatron.seq1f1b.errors import ConfigurationError


def check_positions(config: Config, *, head_dim: int) -> None:
    """Refuse positions that cannot be.

    Raises:
        ConfigurationError: with the flags and their numbers.
    """
    positions, num_layers = config.positions, config.model.num_layers
    if (
        positions.rope_scaling_factor != PositionOptions.rope_scaling_factor
        and not positions.use_rope_scaling
    ):
        raise ConfigurationError(
            f"--rope-scaling-factor {positions.rope_scaling_factor:g} means nothing without "
            "--use-rope-scaling; give it, or leave the factor out"
        )
    if positions.no_rope_freq is not None and num_layers % positions.no_rope_freq:
        raise ConfigurationError(
            f"--no-rope-freq {positions.no_rope_freq} does not divide --num-layers {num_layers}; "
            "change one of them"
        )
    _check_rotating(positions, head_dim)


def max_positions(config: Config) -> int:
    """Rows of the table of learned positions."""
    asked = config.positions.max_position_embeddings
    if asked is not None and asked < config.training.seq_length:
        raise ConfigurationError(
            f"--max-position-embeddings {asked} is less than --seq-length "
            f"{config.training.seq_length}; use at least the sequence length"
        )
    return asked or config.training.seq_length


def _check_rotating(positions: PositionOptions, head_dim: int) -> None:
    """Rotary positions turn pairs of a head's channels."""
    rotating = int(head_dim * positions.rotary_percent)
    if positions.position_embedding_type == "rope" and (rotating % 2 or rotating == 0):
        raise ConfigurationError(
            f"--position-embedding-type rope turns pairs of channels, and --rotary-percent "
            f"{positions.rotary_percent:g} of heads of {head_dim} are {rotating}; use an even number from 2 "
            "(--kv-channels, --hidden-size / --num-attention-heads, --rotary-percent)"
        )
