"""The only room that touches Megatron-Core's internals or patches anything.

`install_cpu_support` must run before `megatron.core` is imported; `supported` checks the installed
version; `step` gathers what a schedule function borrows from Megatron-Core's own.
"""

from megatron.seq1f1b.upstream.cpu import install_cpu_support, is_cpu_only
from megatron.seq1f1b.upstream.version import check_megatron_core

__all__ = ["check_megatron_core", "install_cpu_support", "is_cpu_only"]
