"""What training and preprocessing ask of a tokenizer.

One small base class over the libraries that do the work. Megatron-Core's datasets read `eod`, `pad`
and `unique_identifiers` from it; everything else here serves preprocessing and inspection.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from megatron.seq1f1b.errors import ConfigurationError, DataError


class Tokenizer(ABC):
    """Text to ids and back, with an end-of-document id."""

    pad = -1
    """Outside every vocabulary: Megatron-Core masks the loss of this id, so no token has it."""

    def __init__(self, *, vocab_size: int, eod: int) -> None:
        self.vocab_size = vocab_size
        self.eod = eod

    @property
    def unique_identifiers(self) -> dict[str, str | int]:
        """What Megatron-Core hashes into the name of a dataset's index cache."""
        return {"class": type(self).__name__, "vocab_size": self.vocab_size, "eod": self.eod}

    @abstractmethod
    def tokenize(self, text: str) -> list[int]:
        """The ids of `text`, without an end-of-document id."""

    @abstractmethod
    def detokenize(self, ids: Sequence[int]) -> str:
        """The text of `ids`; bytes that are no valid UTF-8 become U+FFFD."""

    def tokenize_to_array(self, text: str) -> np.ndarray:
        """As `tokenize`, as an integer array; faster where the library can fill one."""
        return np.asarray(self.tokenize(text), dtype=np.int64)


def without_surrogates(text: str) -> str:
    """`text` with unpaired surrogates (JSON escapes can hold them) as U+FFFD; pairs are joined."""
    if text.isascii():
        return text
    return text.encode("utf-16", errors="surrogatepass").decode("utf-16", errors="replace")


def required(value: str | Path | int | None, *, flag: str, tokenizer_type: str) -> str:
    """`value` as text, or an error that names the flag which was not given."""
    if value is None:
        raise ConfigurationError(f"--tokenizer-type {tokenizer_type} needs {flag}")
    return str(value)


def existing_file(path: str, *, flag: str) -> Path:
    """`path` if it is a file that can be read."""
    file = Path(path)
    if not file.is_file():
        raise DataError(f"{flag} {path}: no such file")
    return file


def missing_extra(package: str, *, extra: str, purpose: str) -> ConfigurationError:
    """The error for an optional library that is not installed."""
    return ConfigurationError(
        f"{purpose} needs the package {package}, which is not installed; "
        f"pip install {package}, or this project with its extra: pip install .[{extra}]"
    )
