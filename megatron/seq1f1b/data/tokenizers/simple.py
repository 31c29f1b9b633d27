"""Tokenizers that need no files: numbers as text, and raw bytes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from megatron.seq1f1b.data.tokenizers.base import Tokenizer, without_surrogates
from megatron.seq1f1b.errors import ConfigurationError, DataError


class NullTokenizer(Tokenizer):
    """Text is ids separated by spaces; `vocab_size` N gives ids 0 to N-1 and end-of-document N."""

    def __init__(self, *, vocab_size: int) -> None:
        if vocab_size < 1:
            raise ConfigurationError(
                f"--vocab-size {vocab_size} leaves NullTokenizer without ids; give 1 or more"
            )
        super().__init__(vocab_size=vocab_size + 1, eod=vocab_size)

    def tokenize(self, text: str) -> list[int]:
        """The numbers in `text`."""
        try:
            ids = [int(word) for word in text.split()]
        except ValueError as error:
            raise DataError(f"NullTokenizer reads ids separated by spaces: {error}") from error
        outside = [number for number in ids if not 0 <= number < self.eod]
        if outside:
            raise DataError(
                f"id {outside[0]} is outside 0 to {self.eod - 1}, "
                f"the ids of NullTokenizer with --vocab-size {self.eod}"
            )
        return ids

    def detokenize(self, ids: Sequence[int]) -> str:
        """The numbers, separated by spaces."""
        return " ".join(str(number) for number in ids)


class ByteLevelTokenizer(Tokenizer):
    """The UTF-8 bytes of the text are its ids; `vocab_size` counts bytes and special ids together.

    End-of-document is id 0 and padding id 1 in a vocabulary of 512, as in Megatron-Core's class of
    this name: text that holds the control characters U+0000 shares an id with end-of-document.
    """

    def __init__(self, *, vocab_size: int = 512) -> None:
        if vocab_size < 256:
            raise ConfigurationError(
                f"--vocab-size {vocab_size} cannot hold the 256 byte values; give 256 or more"
            )
        super().__init__(vocab_size=vocab_size, eod=0)

    def tokenize(self, text: str) -> list[int]:
        """The bytes of `text` in UTF-8."""
        return list(without_surrogates(text).encode())

    def tokenize_to_array(self, text: str) -> np.ndarray:
        """As `tokenize`, as an array."""
        return np.frombuffer(without_surrogates(text).encode(), dtype=np.uint8)

    def detokenize(self, ids: Sequence[int]) -> str:
        """The text of the bytes; ids that are no bytes are left out."""
        return bytes(number for number in ids if number < 256).decode("utf-8", errors="replace")
