"""What Megatron-Core's own schedules cannot do, and ours can."""

from __future__ import annotations

from megatron.seq1f1b.config.options import Config
from megatron.seq1f1b.errors import ConfigurationError


def check_upstream_schedule(config: Config, *, schedule: str) -> None:
    """Refuse what `1f1b` or `interleaved` would do wrong.

    Raises:
        ConfigurationError: with the schedule that can.
    """
    experts, tp = config.experts, config.parallel.tensor_model_parallel_size
    has_auxiliary_losses = experts.moe_aux_loss_coeff > 0 or bool(experts.moe_z_loss_coeff)
    chunked = "seq1f1b-interleaved" if schedule == "interleaved" else "seq1f1b"
    instead = f"use --pipeline-schedule {chunked}, also with 1 chunk"
    if config.data.reset_attention_mask:
        raise ConfigurationError(
            f"--reset-attention-mask needs to tell attention where documents start, which schedule "
            f"{schedule} of Megatron-Core cannot; {instead}"
        )
    if config.training.calculate_per_token_loss and has_auxiliary_losses and tp > 1:
        raise ConfigurationError(
            f"--calculate-per-token-loss with --tensor-model-parallel-size {tp}: schedule {schedule} of "
            f"Megatron-Core would give the experts' auxiliary losses 1/{tp} of their weight; {instead}"
        )
