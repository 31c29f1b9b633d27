"""Runs a script on Megatron-Core, which asks for CUDA, on a machine without a GPU.

torchrun --standalone --nproc_per_node 2 examples/megatron_core_script/on_cpu.py stock.py
torchrun --standalone --nproc_per_node 2 examples/megatron_core_script/on_cpu.py chunked.py
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from megatron.seq1f1b.upstream import prepare_megatron_core


def main() -> None:
    """Answer requests for CUDA devices on the CPU, then run the script named on the command line."""
    prepare_megatron_core()
    script = Path(__file__).parent / sys.argv.pop(1)
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
