"""Peak live activation bytes of stage 0, seq1f1b over Megatron-Core's 1F1B.

    torchrun --standalone --nproc_per_node 4 benchmarks/activation_memory.py --microbatches 8

Every storage that an operation of the step makes is counted once, at its full size, for as long as
it lives: what is kept for backward, hidden states, the KV cache and the accumulators of dK and dV.
Parameters and gradient buffers exist before the step and are not counted. Counted after every
forward, where a step holds most.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from pipeline import contestants, parser, resolve, start
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from megatron.seq1f1b.training import steps


class LiveStorages(TorchDispatchMode):
    """Knows every storage made while it is active and still alive."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak_bytes = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        inputs = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if _is_real(leaf)}
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if _is_real(leaf):
                storage = leaf.untyped_storage()
                known = self._known.get(storage._cdata)
                is_new = known is None or known[0].expired()
                if is_new and storage._cdata not in inputs:
                    self._known[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        return result

    def record(self) -> None:
        """Compare what is alive now with the peak."""
        self._known = {key: held for key, held in self._known.items() if not held[0].expired()}
        self.peak_bytes = max(self.peak_bytes, sum(size for _, size in self._known.values()))


def _is_real(leaf: object) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.layout == torch.strided


def peak_of(step: Callable[[], None]) -> int:
    """Peak live bytes of one step, counted after every forward."""
    storages = LiveStorages()
    plain = steps.forward_step

    def counted(data_iterator: Any, model: torch.nn.Module) -> Any:
        result = plain(data_iterator, model)
        storages.record()
        return result

    steps.forward_step = counted
    try:
        with storages:
            step()
    finally:
        steps.forward_step = plain
    return storages.peak_bytes


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
        peaks[entrant.name] = peak_of(entrant.step)
    if dist.get_rank() == 0:
        ratios = {
            f"{name}_over_1f1b": round(peaks[name] / peaks["1f1b"], 4) for name in ("average", "uniform_comp")
        }
        print(json.dumps({"peak_bytes_stage_0": peaks, **ratios}), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
