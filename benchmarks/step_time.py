"""Step time of seq1f1b against Megatron-Core's 1F1B, same model and attention core, in turn.

    torchrun --standalone --nproc_per_node 2 benchmarks/step_time.py --microbatches 2 --chunks 4

The number of processes is the number of stages. `ratio` is the median over pairs of (1f1b /
seq1f1b), and `middle_half` their first and third quartile; `ideal_ratio` is what equal-cost chunks and
free messages would give.
"""

from __future__ import annotations

import json
import statistics

import pipeline
import torch.distributed as dist
from disturbance import Disturbance, median_and_spread


def main() -> None:
    """Measure and print one JSON object on rank 0."""
    options = pipeline.parser(__doc__.split("\n")[0])
    options.add_argument("--rounds", type=int, default=15, help="pairs of steps")
    options.add_argument("--strategy", default="uniform_comp", help="partition of the chunks")
    options.set_defaults(seq_length=2048)
    arguments = options.parse_args()
    pipeline.start()
    disturbance = Disturbance()
    runs = {
        "1f1b": pipeline.resolve(arguments, schedule="1f1b", chunks=1),
        "seq1f1b": pipeline.resolve(
            arguments,
            schedule="seq1f1b",
            chunks=arguments.chunks,
            extra=f"--pipe-sp-strategy {arguments.strategy}",
        ),
    }
    entrants = pipeline.contestants(runs)
    pipeline.warm_up(entrants)
    seconds = pipeline.alternate(entrants, rounds=arguments.rounds)
    pairs = pipeline.ratios(seconds["1f1b"], seconds["seq1f1b"])
    ratio, middle_half = median_and_spread(pairs)
    p, m, k = dist.get_world_size(), arguments.microbatches, arguments.chunks
    result = {
        "stages": p,
        "microbatches": m,
        "chunks": k,
        "seq_length": arguments.seq_length,
        "boundaries": runs["seq1f1b"].boundaries,
        "seconds": {name: round(statistics.median(taken), 4) for name, taken in seconds.items()},
        "ratio": ratio,
        "middle_half": middle_half,
        "ideal_ratio": round(k * (m + p - 1) / (k * m + p - 1), 4),
        **disturbance.shares(),
        "pairs": [round(pair, 3) for pair in pairs],
    }
    if dist.get_rank() == 0:
        print(json.dumps(result), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
