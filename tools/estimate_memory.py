"""Say what memory a run will need on every stage, before anyone books a GPU.

    python tools/estimate_memory.py --world-size 64 --num-layers 64 --hidden-size 6144 ...

Takes the flags of pretrain_gpt.py as they are, for any number of processes. The answer is a closed
form (milliseconds); `pretrain_gpt.py --dry-run` runs the model's own code on tensors without memory
(a minute or two) and agrees within a few percent.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megatron.seq1f1b.config import parse_arguments
from megatron.seq1f1b.errors import Seq1F1BError
from megatron.seq1f1b.planning.estimate import estimate
from megatron.seq1f1b.planning.from_run import memory_of
from megatron.seq1f1b.planning.memory_report import ALLOCATOR_OVERHEAD, MemoryReport
from megatron.seq1f1b.training.prepare import prepare


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without repeating the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def make_parser() -> argparse.ArgumentParser:
    """The tool's own flags; all others are the run's."""
    parser = _Parser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--world-size", type=int, required=True, metavar="N", help="processes of the run")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="(table)")
    parser.add_argument(
        "--allocator-overhead",
        type=float,
        default=ALLOCATOR_OVERHEAD,
        metavar="X",
        help=f"reserved over live bytes, assumed ({ALLOCATOR_OVERHEAD})",
    )
    return parser


def report(flags: list[str], *, world_size: int, allocator_overhead: float) -> MemoryReport:
    """The estimate for the flags of a run."""
    run = prepare(parse_arguments(flags), world_size=world_size)
    return estimate(
        memory_of(run.config, run.layout, run.dimensions),
        run.make_plan(run.layout.num_microbatches, False),
        run.boundaries,
        layers_of_virtual_stages=run.layout.layers_of_virtual_stages,
        micro_batch_size=run.config.training.micro_batch_size,
        allocator_overhead=allocator_overhead,
    )


def main() -> int:
    """Print the estimate; 2 when the run could not start."""
    arguments, flags = make_parser().parse_known_args()
    try:
        estimated = report(
            flags, world_size=arguments.world_size, allocator_overhead=arguments.allocator_overhead
        )
    except Seq1F1BError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        return 2
    print(estimated.to_json() if arguments.format == "json" else estimated.to_table())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
