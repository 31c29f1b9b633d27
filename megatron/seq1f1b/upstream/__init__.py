"""The only room that touches Megatron-Core's internals or patches anything.

A command of ours calls `prepare_megatron_core` before `megatron.core` is imported; `step` gathers what a
schedule function borrows from Megatron-Core's own.
"""

from megatron.seq1f1b.upstream.cpu import install_cpu_support, is_cpu_only
from megatron.seq1f1b.upstream.known_warnings import silence_known_warnings
from megatron.seq1f1b.upstream.version import check_megatron_core

__all__ = [
    "check_megatron_core",
    "install_cpu_support",
    "is_cpu_only",
    "prepare_megatron_core",
]


def prepare_megatron_core() -> None:
    """Check its version, silence its known warnings, and make it run without CUDA where there is none.

    Raises:
        ConfigurationError: it is missing, or a release that was not tested.
    """
    check_megatron_core()
    silence_known_warnings()
    install_cpu_support()
