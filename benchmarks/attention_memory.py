"""Peak live bytes of one layer's attention, forward and backward, at k chunks over one.

    python benchmarks/attention_memory.py --chunks 8

Every storage that an operation makes is counted once, at its full size, from when it is made until
nothing refers to it, and the sum is compared with its peak after every operation: queries, keys and
values as the layer's projections make them, output, log-sum-exp, KV cache, dK and dV, gradients in
flight and temporaries. What a kernel allocates and frees inside one call is not seen. Gradients of
a chunk's output exist from its backward on; its input's gradients are dropped when it ends, as the
layer before would.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch
from attention_cpu import DTYPES
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from megatron.seq1f1b.attention import CachePool, SequenceState, choose_backend, chunked_attention
from megatron.seq1f1b.chunk import Chunk, chunks_from


class PeakOfStorages(TorchDispatchMode):
    """Knows every storage made while it is active, and the peak of those alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.peak_bytes = 0
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        given = {_storage(leaf)._cdata for leaf in tree_leaves((args, kwargs)) if _is_tensor(leaf)}
        for leaf in tree_leaves(result):
            if _is_tensor(leaf) and _storage(leaf)._cdata not in given:
                storage = _storage(leaf)
                self._made[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self._made = {at: made for at, made in self._made.items() if not made[0].expired()}
        self.peak_bytes = max(self.peak_bytes, sum(size for _, size in self._made.values()))
        return result


def _is_tensor(leaf: object) -> bool:
    return isinstance(leaf, torch.Tensor)


def _storage(tensor: torch.Tensor) -> torch.UntypedStorage:
    return tensor.untyped_storage()


def peak_of(arguments: argparse.Namespace, *, num_chunks: int) -> int:
    """Peak bytes of one sequence's forward and backward."""
    length, pool = arguments.seq_length, CachePool()
    chunks = chunks_from([length * index // num_chunks for index in range(num_chunks + 1)])
    state = SequenceState(pool=pool, seq_length=length, microbatch=0, virtual_stage=0, num_chunks=num_chunks)
    with PeakOfStorages() as storages:
        outputs = [_forward(arguments, chunk, state) for chunk in chunks]
        while outputs:
            output = outputs.pop()
            output.backward(torch.ones_like(output))
    state.close()
    return storages.peak_bytes


def _forward(arguments: argparse.Namespace, chunk: Chunk, state: SequenceState) -> torch.Tensor:
    """Output of one chunk, from queries, keys and values that only autograd keeps."""
    dtype, head_dim = DTYPES[arguments.dtype], arguments.head_dim
    anchor = torch.zeros((), dtype=dtype, requires_grad=True)
    made = [
        anchor.expand(chunk.length, 1, heads, head_dim) + 1
        for heads in (arguments.heads, arguments.groups, arguments.groups)
    ]
    return chunked_attention(
        *made,
        cache=state.cache(1),
        chunk=chunk,
        softmax_scale=head_dim**-0.5,
        backend=choose_backend("cpu", device="cpu", dtype=dtype, head_dim=head_dim),
    )


def main() -> None:
    """Count and print one JSON line and one to read."""
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--seq-length", type=int, default=4096)
    options.add_argument("--chunks", type=int, default=8)
    options.add_argument("--heads", type=int, default=32)
    options.add_argument("--groups", type=int, default=8)
    options.add_argument("--head-dim", type=int, default=64)
    options.add_argument("--dtype", choices=DTYPES, default="float32")
    arguments = options.parse_args()
    chunked, whole = (peak_of(arguments, num_chunks=count) for count in (arguments.chunks, 1))
    result = {**vars(arguments), "chunked_bytes": chunked, "whole_bytes": whole}
    print(json.dumps({"benchmark": "attention_memory", **result, "ratio": round(chunked / whole, 4)}))
    print(
        f"  {arguments.heads}/{arguments.groups} heads {arguments.dtype}, S={arguments.seq_length}: "
        f"{chunked / 2**20:.1f} MiB at k={arguments.chunks} over {whole / 2**20:.1f} MiB at k=1, "
        f"ratio {chunked / whole:.3f}"
    )


if __name__ == "__main__":
    main()
