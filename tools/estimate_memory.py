"""Say what memory a run will need on every stage, before anyone books a GPU.

    python tools/estimate_memory.py --world-size 64 --num-layers 64 --hidden-size 6144 ...

Takes the flags of pretrain_gpt.py as they are, for any number of processes, and prints what its
--dry-run prints, in the same --format. The answer is a closed form (milliseconds); the dry run puts the
model's own code to work on tensors without memory (a minute or two) and agrees within a few percent.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megatron.seq1f1b.config import parse_arguments, with_config_files
from megatron.seq1f1b.planning.from_run import estimate_run
from megatron.seq1f1b.training.dry_run import world_size_of
from megatron.seq1f1b.training.prepare import prepare
from tools.command_line import end_by_signals, run


def main() -> None:
    """Print the estimate."""
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
    config = parse_arguments([*with_config_files(arguments), "--dry-run"])
    report = estimate_run(prepare(config, world_size=world_size_of(config, os.environ)))
    print(report.to_json() if config.dry_run.format == "json" else report.to_table())


if __name__ == "__main__":
    end_by_signals()
    run(main)
