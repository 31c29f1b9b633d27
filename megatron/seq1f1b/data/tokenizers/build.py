"""A tokenizer by Megatron's name for it."""

from __future__ import annotations

from pathlib import Path

from megatron.seq1f1b.data.tokenizers.base import Tokenizer, existing_file, required
from megatron.seq1f1b.data.tokenizers.simple import ByteLevelTokenizer, NullTokenizer
from megatron.seq1f1b.errors import ConfigurationError

TOKENIZER_TYPES = (
    "GPT2BPETokenizer",
    "NullTokenizer",
    "ByteLevelTokenizer",
)


def build_tokenizer(
    tokenizer_type: str,
    *,
    vocab_file: str | Path | None = None,
    merge_file: str | Path | None = None,
    tokenizer_model: str | Path | None = None,
    vocab_size: int | None = None,
) -> Tokenizer:
    """The tokenizer that `--tokenizer-type` names.

    Raises:
        ConfigurationError: an unknown name, or a flag that this type needs is missing.
        DataError: a file that is missing or is no tokenizer of this kind.
    """
    if tokenizer_type == "NullTokenizer":
        size = required(vocab_size, flag="--vocab-size", tokenizer_type=tokenizer_type)
        return NullTokenizer(vocab_size=int(size))
    if tokenizer_type == "ByteLevelTokenizer":
        return ByteLevelTokenizer(vocab_size=512 if vocab_size is None else vocab_size)
    if tokenizer_type == "GPT2BPETokenizer":
        from megatron.seq1f1b.data.tokenizers.gpt2 import GPT2BPETokenizer

        vocabulary = required(vocab_file, flag="--vocab-file", tokenizer_type=tokenizer_type)
        merges = required(merge_file, flag="--merge-file", tokenizer_type=tokenizer_type)
        return GPT2BPETokenizer(
            vocab_file=existing_file(vocabulary, flag="--vocab-file"),
            merge_file=existing_file(merges, flag="--merge-file"),
        )
    raise ConfigurationError(
        f"--tokenizer-type {tokenizer_type} does not exist; choose from {', '.join(TOKENIZER_TYPES)}"
    )
