"""Trains a byte-level BPE as GPT-2's, with Hugging Face's `tokenizers`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from megatron.seq1f1b.data.files import atomic_file
from megatron.seq1f1b.data.json_lines import texts
from megatron.seq1f1b.data.preprocess.lines import find_inputs
from megatron.seq1f1b.data.tokenizers.gpt2 import END_OF_TEXT
from megatron.seq1f1b.errors import ConfigurationError, DataError

SMALLEST_VOCABULARY = 257
"""256 bytes and the end of text."""


def train_bpe(inputs: Sequence[str], *, json_key: str, vocab_size: int, output_dir: Path) -> int:
    """Write `vocab.json` and `merges.txt` to `output_dir`; the number of ids.

    Raises:
        ConfigurationError: a vocabulary too small for the bytes.
        DataError: text that cannot be read, or no text.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    if vocab_size < SMALLEST_VOCABULARY:
        raise ConfigurationError(
            f"--vocab-size {vocab_size} cannot hold 256 bytes and {END_OF_TEXT}; "
            f"give {SMALLEST_VOCABULARY} or more"
        )
    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=True,
    )
    library.train_from_iterator(_counted(find_inputs(inputs), json_key), trainer=trainer)
    _save(library, output_dir)
    return int(library.get_vocab_size())


def _counted(files: Sequence[str], json_key: str) -> Iterator[str]:
    """The texts, with a bar while they are read; refused if there are none."""
    count = 0
    with tqdm(desc="reading text", unit=" documents") as bar:
        for text in texts(files, json_key=json_key):
            count += 1
            bar.update()
            yield text
    if not count:
        raise DataError(f"--input {' '.join(files)} holds no lines to learn a vocabulary from")


def _save(library: object, output_dir: Path) -> None:
    """Both files, each complete or not there."""
    model = json.loads(library.to_str())["model"]  # type: ignore[attr-defined]
    with atomic_file(output_dir / "merges.txt") as stream:
        lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
        stream.write(("\n".join(lines) + "\n").encode())
    with atomic_file(output_dir / "vocab.json") as stream:
        stream.write(json.dumps(model["vocab"], ensure_ascii=False).encode())
