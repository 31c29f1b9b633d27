"""Write a sample corpus of real text without a download: the Python sources of this interpreter.

python tools/make_sample_corpus.py --output corpus.jsonl --json-key content --megabytes 30
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tqdm import tqdm

from megatron.seq1f1b.data.corpus import write_sample_corpus
from megatron.seq1f1b.data.stops import stoppable
from tools.command_line import Parser, run


def main() -> None:
    """Read the command line, write the corpus, say what it holds."""
    parser = Parser(__doc__)
    parser.add_argument("--output", type=Path, required=True, help="the JSON lines file to write")
    parser.add_argument("--json-key", default="content", help="the key that holds the text")
    parser.add_argument("--megabytes", type=_megabytes, default=30.0, help="text to collect, in MB")
    arguments = parser.parse_args()

    total = int(arguments.megabytes * 1e6)
    with stoppable(), tqdm(total=total, unit="B", unit_scale=True, desc="sample corpus") as bar:
        summary = write_sample_corpus(
            arguments.output, json_key=arguments.json_key, num_bytes=total, advance=bar.update
        )
    print(
        f"{arguments.output}: {summary.num_documents} documents, "
        f"{summary.num_text_bytes / 1e6:.1f} MB of Python source"
    )
    if summary.num_library_documents:
        print(
            f"{summary.num_library_documents} of them are sources of installed packages: "
            "the standard library alone is smaller than asked for"
        )
    if summary.num_text_bytes < total:
        print(f"that is all there is; {arguments.megabytes:g} MB were asked for")


def _megabytes(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


if __name__ == "__main__":
    run(main)
