"""Seq1F1B: sequence-chunk pipeline parallelism on Megatron-Core (arXiv 2406.03488).

Importing this package imports neither torch nor megatron.core; each room imports what it needs.
"""

__version__ = "0.1.0"
