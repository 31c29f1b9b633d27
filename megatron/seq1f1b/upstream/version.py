"""Which Megatron-Core releases this project runs on, and the check that refuses others."""

from __future__ import annotations

from importlib import metadata

from megatron.seq1f1b.errors import ConfigurationError

SUPPORTED_MEGATRON_CORE = ("0.16.1",)
"""Releases whose internals the signature tests have been run against."""


def check_megatron_core() -> str:
    """The installed Megatron-Core's version.

    Raises:
        ConfigurationError: it is missing, or not one this project was tested against.
    """
    wanted = " or ".join(SUPPORTED_MEGATRON_CORE)
    try:
        installed = metadata.version("megatron-core")
    except metadata.PackageNotFoundError as error:
        raise ConfigurationError(
            f"Megatron-Core is not installed; pip install megatron-core=={wanted}"
        ) from error
    if installed not in SUPPORTED_MEGATRON_CORE:
        raise ConfigurationError(
            f"Megatron-Core {installed} is installed, but its internals were only checked for "
            f"{wanted}; pip install megatron-core=={SUPPORTED_MEGATRON_CORE[-1]}"
        )
    return installed
