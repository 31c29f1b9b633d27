"""How long training waits for its data before step 0, on an index of ten million documents.

    python benchmarks/dataset_startup.py

The index is real, the tokens are a sparse file of zeros. The first start builds Megatron-Core's
sample indices; the second, in a new process, finds them in the cache: that is the figure.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

SEQ_LENGTH = 2048
MEAN_TOKENS = 200


def main() -> None:
    """Write the pair, start twice, print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=10_000_000)
    parser.add_argument("--start", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.start is not None:
        print(json.dumps(_start(arguments.start)))
        return
    with tempfile.TemporaryDirectory() as folder:
        prefix = str(Path(folder) / "documents")
        _write_pair(prefix, num_documents=arguments.documents)
        first, second = (_run(prefix) for _ in range(2))
    result = {"documents": arguments.documents, "cores": os.cpu_count(), "first": first, "cached": second}
    print(json.dumps(result, indent=2))


def _write_pair(prefix: str, *, num_documents: int) -> None:
    from megatron.seq1f1b.data.indexed import IndexHeader, bin_path, idx_path, token_dtype

    dtype = token_dtype(50257)
    lengths = np.random.default_rng(1).integers(1, 2 * MEAN_TOKENS, size=num_documents, dtype=np.int32)
    ends = np.cumsum(lengths, dtype=np.int64) * dtype.itemsize
    header = IndexHeader(dtype=dtype, num_sequences=num_documents, num_document_entries=num_documents + 1)
    with idx_path(prefix).open("wb") as stream:
        stream.write(header.packed())
        for column in (lengths, ends - lengths * dtype.itemsize, np.arange(num_documents + 1)):
            stream.write(column.tobytes())
    with bin_path(prefix).open("wb") as stream:
        stream.truncate(int(ends[-1]))


def _run(prefix: str) -> dict[str, float]:
    """One start in a process of its own."""
    started_at = time.perf_counter()
    command = [sys.executable, __file__, "--start", prefix]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    parts: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
    return {**parts, "whole_process_seconds": round(time.perf_counter() - started_at, 2)}


def _start(prefix: str) -> dict[str, float]:
    """What a run does with its data before step 0."""
    from megatron.seq1f1b.data import (
        DataSettings,
        batches,
        build_tokenizer,
        build_train_valid_test_datasets,
        check_data_files,
    )

    marks = [time.perf_counter()]
    tokenizer = build_tokenizer("NullTokenizer", vocab_size=50256)
    check_data_files([prefix], tokenizer.vocab_size)
    marks.append(time.perf_counter())
    import megatron.core.datasets.gpt_dataset  # noqa: F401

    marks.append(time.perf_counter())
    settings = DataSettings(tokenizer=tokenizer, seq_length=SEQ_LENGTH, data_path=(prefix,), split="99,1,0")
    datasets = build_train_valid_test_datasets(settings, train_samples=900_000, valid_samples=1000)
    marks.append(time.perf_counter())
    assert datasets.train is not None
    next(
        batches(
            datasets.train,
            micro_batch_size=1,
            data_parallel_rank=0,
            data_parallel_size=1,
            global_batch_size=8,
        )
    )
    marks.append(time.perf_counter())
    names = ("check_seconds", "import_seconds", "build_seconds", "first_batch_seconds")
    return {name: round(b - a, 2) for name, a, b in zip(names, marks, marks[1:], strict=False)}


if __name__ == "__main__":
    main()
