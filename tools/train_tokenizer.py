r"""Train a byte-level BPE on JSON lines, in GPT-2's format: vocab.json and merges.txt.

python tools/train_tokenizer.py --input corpus.jsonl --json-key content --vocab-size 8192 \
        --output-dir tokenizer
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from megatron.seq1f1b.data.stops import stoppable
from megatron.seq1f1b.data.tokenizers.training import SMALLEST_VOCABULARY, train_bpe
from tools.command_line import Parser, run


def main() -> None:
    """Read the command line, train, say where the files are."""
    parser = Parser(__doc__)
    parser.add_argument("--input", nargs="+", required=True, help="JSON lines: files or patterns")
    parser.add_argument("--json-key", default="content", help="the key that holds the text")
    parser.add_argument(
        "--vocab-size",
        type=int,
        default=8192,
        help=f"ids, the end-of-text id included; at least {SMALLEST_VOCABULARY}",
    )
    parser.add_argument("--output-dir", type=Path, required=True, help="folder of the two files")
    arguments = parser.parse_args()

    with stoppable():
        size = train_bpe(
            arguments.input,
            json_key=arguments.json_key,
            vocab_size=arguments.vocab_size,
            output_dir=arguments.output_dir,
        )
    print(f"{arguments.output_dir / 'vocab.json'} and merges.txt: {size} ids")
    if size < arguments.vocab_size:
        print(f"the text has no more pairs to merge; {arguments.vocab_size} ids were asked for")


if __name__ == "__main__":
    run(main)
