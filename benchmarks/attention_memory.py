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
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.one_layer import DTYPES
from megatron.seq1f1b.attention import CachePool, SequenceState, choose_backend, chunked_attention
from megatron.seq1f1b.chunk import Chunk, chunks_from
from megatron.seq1f1b.planning.live_bytes import LiveBytes


def peak_of(arguments: argparse.Namespace, *, num_chunks: int) -> int:
    """Peak bytes of one sequence's forward and backward."""
    length, pool = arguments.seq_length, CachePool()
    chunks = chunks_from([length * index // num_chunks for index in range(num_chunks + 1)])
    state = SequenceState(pool=pool, seq_length=length, microbatch=0, virtual_stage=0, num_chunks=num_chunks)
    with LiveBytes(lambda tensor: False) as live:
        outputs = [_forward(arguments, chunk, state) for chunk in chunks]
        while outputs:
            output = outputs.pop()
            output.backward(torch.ones_like(output))
    state.close()
    return sum(live.at_peak.values())


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
