r"""Show what a prepared `.bin`/`.idx` pair holds, and check it.

python tools/inspect_data.py codeparrot_content_document --tokenizer-type GPT2BPETokenizer \
        --vocab-file vocab.json --merge-file merges.txt --verify
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from tqdm import tqdm

from megatron.seq1f1b.data.indexed import IndexedFiles
from megatron.seq1f1b.data.inspection import statistics, verify_ids, verify_index
from megatron.seq1f1b.data.tokenizers import TOKENIZER_TYPES, Tokenizer, build_tokenizer
from tools.command_line import Parser, end_by_signals, run


def main() -> None:
    """Read the command line, check the index, show the pair, walk its ids if asked to."""
    arguments = _parser().parse_args()
    tokenizer = _tokenizer(arguments)
    files = IndexedFiles(arguments.prefix.removesuffix(".bin").removesuffix(".idx"))
    verify_index(files)
    print(f"{files.prefix}: ids are {files.header.dtype.name}")
    print("\n".join(statistics(files).lines()))
    for index in np.linspace(0, files.num_documents - 1, num=arguments.samples, dtype=int):
        _show(files, int(index), tokenizer, num_tokens=arguments.sample_tokens)
    if arguments.verify:
        _verify(files, tokenizer)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(__doc__)
    parser.add_argument("prefix", help="path of the pair without .bin or .idx")
    parser.add_argument("--samples", type=int, default=3, help="documents to show, spread evenly")
    parser.add_argument("--sample-tokens", type=int, default=64, help="ids shown of each")
    parser.add_argument("--verify", action="store_true", help="walk every id, not the index alone")
    parser.add_argument("--tokenizer-type", choices=TOKENIZER_TYPES, help="decodes samples, bounds the ids")
    parser.add_argument("--vocab-file", "--vocab", dest="vocab_file", help="vocab.json of GPT-2's BPE")
    parser.add_argument("--merge-file", help="merges.txt of GPT-2's BPE")
    parser.add_argument("--tokenizer-model", help="model file or folder of the other tokenizers")
    parser.add_argument("--vocab-size", type=int, help="ids of NullTokenizer and others that need it")
    return parser


def _tokenizer(arguments: argparse.Namespace) -> Tokenizer | None:
    if arguments.tokenizer_type is None:
        return None
    return build_tokenizer(
        arguments.tokenizer_type,
        vocab_file=arguments.vocab_file,
        merge_file=arguments.merge_file,
        tokenizer_model=arguments.tokenizer_model,
        vocab_size=arguments.vocab_size,
    )


def _show(files: IndexedFiles, index: int, tokenizer: Tokenizer | None, *, num_tokens: int) -> None:
    """The beginning of one document, decoded if that is possible."""
    document = files.document(index)
    ids = document[:num_tokens].tolist()
    print(f"\ndocument {index}, {document.size} tokens: {ids}")
    if tokenizer is not None:
        known = [number for number in ids if number < tokenizer.vocab_size]
        print(repr(tokenizer.detokenize(known)))


def _verify(files: IndexedFiles, tokenizer: Tokenizer | None) -> None:
    """Without a tokenizer ids are only checked not to be negative."""
    limit = np.iinfo(np.int64).max if tokenizer is None else tokenizer.vocab_size
    with tqdm(total=files.tokens.size, unit=" tokens", unit_scale=True, desc="verify") as bar:
        verify_ids(files, vocab_size=limit, advance=bar.update)
    bound = "" if tokenizer is None else f", every id below {tokenizer.vocab_size}"
    print(f"\nverified: {files.num_documents} documents, {files.tokens.size} tokens{bound}")


if __name__ == "__main__":
    end_by_signals()
    run(main)
