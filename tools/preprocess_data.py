r"""Tokenize JSON lines into the `.bin`/`.idx` pairs that Megatron trains on.

    python tools/preprocess_data.py --input codeparrot_data.json --output-prefix codeparrot \
        --vocab vocab.json --merge-file merges.txt --tokenizer-type GPT2BPETokenizer \
        --dataset-impl mmap --json-keys content --workers 32 --chunk-size 25 --append-eod

writes codeparrot_content_document.bin and codeparrot_content_document.idx.
"""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from megatron.seq1f1b.data.preprocess import PreprocessSettings, preprocess
from megatron.seq1f1b.data.stops import stoppable
from megatron.seq1f1b.data.tokenizers import TOKENIZER_TYPES, build_tokenizer
from tools.command_line import Parser, run


def main() -> None:
    """Read the command line, prepare the data, say what was written."""
    arguments = _parser().parse_args()
    with stoppable():
        written = preprocess(_settings(arguments))
    print("\n".join(written.lines()))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(__doc__)
    _add_input_flags(parser)
    _add_tokenizer_flags(parser)
    _add_output_flags(parser)
    _add_work_flags(parser)
    return parser


def _add_input_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("input")
    group.add_argument(
        "--input",
        nargs="+",
        required=True,
        help="JSON lines: files, patterns, .gz or .zst files, or - for standard input",
    )
    group.add_argument("--json-keys", nargs="+", default=["text"], help="one pair of files for each")
    group.add_argument("--split-sentences", action="store_true", help="one sequence per sentence (nltk)")
    group.add_argument("--keep-newlines", action="store_true", help="keep white space between sentences")
    group.add_argument("--lang", default="english", help="language of the sentence splitter")
    group.add_argument(
        "--skip-invalid", action="store_true", help="count and leave out lines that cannot be used"
    )


def _add_tokenizer_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("tokenizer")
    group.add_argument("--tokenizer-type", required=True, choices=TOKENIZER_TYPES)
    group.add_argument("--vocab-file", "--vocab", dest="vocab_file", help="vocab.json of GPT-2's BPE")
    group.add_argument("--merge-file", help="merges.txt of GPT-2's BPE")
    group.add_argument("--tokenizer-model", help="model file or folder of the other tokenizers")
    group.add_argument("--vocab-size", type=_positive, help="ids of NullTokenizer and others that need it")
    group.add_argument("--tiktoken-pattern", default="v2", choices=["v1", "v2"], help="for TikTokenizer")
    group.add_argument("--tiktoken-num-special-tokens", type=_positive, default=1000, help="for TikTokenizer")
    group.add_argument("--append-eod", action="store_true", help="end each document with its own id")


def _add_output_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument("--output-prefix", required=True, help="path of the files without _<key>_document")
    group.add_argument("--dataset-impl", default="mmap", choices=["mmap"], help="the only format there is")


def _add_work_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("work")
    group.add_argument("--workers", type=_positive, default=os.cpu_count() or 1, help="worker processes")
    group.add_argument("--chunk-size", type=_positive, default=1000, help="documents per task, at most")
    group.add_argument(
        "--partitions",
        type=_positive,
        default=1,
        help="deal documents out over so many parts, one part after the other in the output",
    )
    group.add_argument(
        "--keep-sequential-samples", action="store_true", help="input order whatever --partitions says"
    )
    group.add_argument(
        "--log-interval", type=_positive, default=1000, help="documents between updates of the rates"
    )


def _settings(arguments: argparse.Namespace) -> PreprocessSettings:
    return PreprocessSettings(
        inputs=tuple(arguments.input),
        output_prefix=arguments.output_prefix,
        json_keys=tuple(dict.fromkeys(arguments.json_keys)),
        make_tokenizer=partial(
            build_tokenizer,
            arguments.tokenizer_type,
            vocab_file=arguments.vocab_file,
            merge_file=arguments.merge_file,
            tokenizer_model=arguments.tokenizer_model,
            vocab_size=arguments.vocab_size,
            tiktoken_pattern=arguments.tiktoken_pattern,
            tiktoken_num_special_tokens=arguments.tiktoken_num_special_tokens,
        ),
        append_eod=arguments.append_eod,
        split_sentences=arguments.split_sentences,
        keep_newlines=arguments.keep_newlines,
        language=arguments.lang,
        workers=arguments.workers,
        lines_per_task=arguments.chunk_size,
        partitions=1 if arguments.keep_sequential_samples else arguments.partitions,
        skip_invalid=arguments.skip_invalid,
        log_interval=arguments.log_interval,
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is below 1")
    return number


if __name__ == "__main__":
    run(main)
