"""What can be known to be wrong with a run's log before its processes join; imports no writer."""

from __future__ import annotations

import os
import tempfile
from importlib.util import find_spec
from pathlib import Path

from megatron.seq1f1b.config import Config, LoggingOptions
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


def check_log_folders(config: Config) -> None:
    """Refuse folders for the log of a run that cannot be made or written; nothing is left behind.

    Raises:
        ConfigurationError: with what is in the way.
    """
    if os.environ.get("RANK", "0") != "0":
        return  # Rank 0 alone writes there, perhaps on a disk of its own.
    folders = {
        "--run-dir": config.run.run_dir or "runs",
        "--tensorboard-dir": config.logging.tensorboard_dir,
        "--wandb-save-dir": config.logging.wandb_save_dir,
    }
    for flag, folder in folders.items():
        if folder is None:
            continue
        path = Path(folder).absolute()
        existing = next(place for place in (path, *path.parents) if place.exists())
        try:
            with tempfile.TemporaryFile(dir=existing):
                pass
        except OSError as error:
            raise ConfigurationError(
                f"{flag} {folder} cannot be written: {existing}: {error.strerror}; name another folder"
            ) from error


def _is_installed(package: str) -> bool:
    # A folder of that name, such as the one that W&B makes for its files, is no package.
    found = find_spec(package)
    return found is not None and found.origin is not None
