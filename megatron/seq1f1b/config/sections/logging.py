"""What a run says of its steps, and where."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LoggingOptions:
    """Logging: what a run says of its steps, beside metrics.jsonl."""

    log_interval: int = 10
    """Steps between lines on the terminal, each about the mean over them."""
    log_params_norm: bool = False
    """Measure the norm of all parameters after every step."""
    log_num_zeros_in_grad: bool = False
    """Count the gradients that are zero in every step."""
    tensorboard_dir: str | None = None
    """Folder of TensorBoard's event files; none. Needs the extra `tensorboard`."""
    tensorboard_log_interval: int | None = None
    """Steps between points in the charts of TensorBoard and W&B; 1."""
    tensorboard_queue_size: int | None = None
    """Points that TensorBoard keeps before it writes them; 1000."""
    wandb_project: str | None = None
    """W&B project; none. WANDB_MODE=offline keeps it in files. Needs the extra `wandb`."""
    wandb_exp_name: str | None = None
    """Name of the run there; that of the run's folder."""
    wandb_entity: str | None = None
    """Team or user there; the one that is logged in."""
    wandb_save_dir: str | None = None
    """Folder of W&B's files; the run's folder."""
