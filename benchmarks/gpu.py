"""Everything there is to measure on one GPU, in one call of under eight minutes.

    python benchmarks/gpu.py                          # all sections
    python benchmarks/gpu.py --sections attention step
    python benchmarks/gpu.py --device cpu --tiny      # the same code at a size for tests

Each section runs in a process of its own, prints one JSON line per figure, and ends at its own time:
what it did not come to is named in a line of its own, and one section that fails or hangs costs the
others nothing. `ratio` is chunked over whole, of times that alternate. Sections:

    attention   forward and backward of one layer's attention in k chunks over one call, by backend and dtype
    overhead    microseconds that one chunk adds where kernels have nothing to compute
    memory      peak bytes of that attention, k = 8 over k = 1, 32 query heads and 8 groups
    step        a training step of a GPT on one stage: Megatron-Core's own 1F1B, k chunks, loss in slices
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUDGET_SECONDS = {"attention": 130, "overhead": 30, "memory": 40, "step": 150}
"""Together with the start of four processes less than eight minutes."""
GRACE_SECONDS = 20


def main() -> int:
    """Run the sections in turn; the exit status counts those that failed."""
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--sections", nargs="*", choices=BUDGET_SECONDS, default=list(BUDGET_SECONDS))
    options.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    options.add_argument("--tiny", action="store_true", help="sizes for a test of this script")
    arguments = options.parse_args()
    return sum(not run_section(name, arguments) for name in arguments.sections)


def run_section(name: str, arguments: argparse.Namespace) -> bool:
    """One section in a process of its own; whether it ended well."""
    budget, started_at = BUDGET_SECONDS[name], time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.gpu_sections", name, arguments.device, str(budget)]
    print(json.dumps({"section": name, "budget_seconds": budget}), flush=True)
    try:
        status: int | str = subprocess.run(
            [*command, *(["tiny"] if arguments.tiny else [])],
            cwd=ROOT,
            timeout=budget + GRACE_SECONDS,
            check=False,
        ).returncode
    except subprocess.TimeoutExpired:
        status = "killed: it outran its budget"
    seconds = round(time.perf_counter() - started_at, 1)
    print(json.dumps({"section": name, "status": status, "seconds": seconds}), flush=True)
    return status == 0


if __name__ == "__main__":
    sys.exit(main())
