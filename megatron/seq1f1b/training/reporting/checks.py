"""What can be known to be wrong with a run's log before its processes join; imports no writer."""

from __future__ import annotations

from importlib.util import find_spec

from megatron.seq1f1b.config import LoggingOptions
from megatron.seq1f1b.errors import ConfigurationError


def check_writers(options: LoggingOptions) -> None:
    """Refuse writers whose packages are missing, and options of writers that were not asked for.

    Raises:
        ConfigurationError: with the extra that brings the package.
    """
    is_charted = bool(options.tensorboard_dir or options.wandb_project)
    needs = {
        "--tensorboard-log-interval": (
            options.tensorboard_log_interval,
            "--tensorboard-dir or --wandb-project",
            is_charted,
        ),
        "--tensorboard-queue-size": (
            options.tensorboard_queue_size,
            "--tensorboard-dir",
            options.tensorboard_dir,
        ),
        "--wandb-exp-name": (options.wandb_exp_name, "--wandb-project", options.wandb_project),
        "--wandb-save-dir": (options.wandb_save_dir, "--wandb-project", options.wandb_project),
        "--wandb-entity": (options.wandb_entity, "--wandb-project", options.wandb_project),
    }
    for flag, (value, needed, is_given) in needs.items():
        if value and not is_given:
            raise ConfigurationError(
                f"{flag} {value} means nothing without {needed}; give it, or leave it out"
            )
    packages = {
        "tensorboard": ("--tensorboard-dir", options.tensorboard_dir),
        "wandb": ("--wandb-project", options.wandb_project),
    }
    for package, (flag, value) in packages.items():
        if value and not _is_installed(package):
            raise ConfigurationError(
                f"{flag} {value} needs the package {package}, which is not installed; pip install {package} "
                f"(the extra of that name), or leave {flag} out: metrics.jsonl has the same numbers"
            )


def _is_installed(package: str) -> bool:
    # A folder of that name, such as the one that W&B makes for its files, is no package.
    found = find_spec(package)
    return found is not None and found.origin is not None
