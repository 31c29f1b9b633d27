"""Peak live activation bytes of stage 0, seq1f1b over Megatron-Core's 1F1B.

    torchrun --standalone --nproc_per_node 4 benchmarks/activation_memory.py --microbatches 8

Every storage that an operation of the step makes is counted once, at its full size, for as long as
it lives: what is kept for backward, hidden states, the KV cache and the accumulators of dK and dV.
Parameters and gradient buffers exist before the step and are not counted. Counted after every
forward, where a step holds most.
"""

from __future__ import annotations

import json
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from pipeline import Contestant, contestants, parser, resolve, start

from megatron.seq1f1b.planning.live_bytes import LiveBytes
from megatron.seq1f1b.training import steps
from megatron.seq1f1b.training.steps import forward_step


def peak_of(entrant: Contestant) -> int:
    """Peak live bytes of one step, counted after every forward."""
    live, counts = LiveBytes(lambda tensor: False), []
    for part in entrant.trained.parts:
        for parameter in part.parameters():
            live.ignore(parameter)
            live.ignore(parameter.main_grad)

    def counted(data_iterator: Any, model: torch.nn.Module) -> Any:
        result = forward_step(data_iterator, model)
        counts.append(sum(live.live.values()))
        return result

    with mock.patch.object(steps, "forward_step", counted), live:
        entrant.step()
    return max(counts)


def main() -> None:
    """Measure and print one JSON object on rank 0, which is stage 0."""
    arguments = parser(__doc__.split("\n")[0]).parse_args()
    start()
    runs = {"1f1b": resolve(arguments, schedule="1f1b", chunks=1)}
    for strategy in ("average", "uniform_comp"):
        runs[strategy] = resolve(
            arguments,
            schedule="seq1f1b",
            chunks=arguments.chunks,
            extra=f"--pipe-sp-strategy {strategy}",
        )
    peaks = {}
    for entrant in contestants(runs):
        # The first step: later ones find their caches in the pool, where nobody would count them.
        peaks[entrant.name] = peak_of(entrant)
    if dist.get_rank() == 0:
        ratios = {
            f"{name}_over_1f1b": round(peaks[name] / peaks["1f1b"], 4) for name in ("average", "uniform_comp")
        }
        print(json.dumps({"peak_bytes_stage_0": peaks, **ratios}), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
