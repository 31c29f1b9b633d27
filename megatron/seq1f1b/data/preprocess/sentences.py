"""Sentences of a document, by nltk's Punkt."""

from __future__ import annotations

from collections.abc import Callable

from megatron.seq1f1b.data.tokenizers.base import missing_extra
from megatron.seq1f1b.errors import ConfigurationError

_WINDOW = 1_000_000
"""Characters given to Punkt at once, as in Megatron: longer texts are cut there."""

Splitter = Callable[[str], list[str]]


def sentence_splitter(language: str, *, keep_newlines: bool) -> Splitter:
    """A function from text to sentences; with `keep_newlines` the white space after each stays.

    Raises:
        ConfigurationError: nltk or its Punkt model of `language` is not installed.
    """
    try:
        from nltk.tokenize import PunktTokenizer
    except ImportError as error:
        raise missing_extra("nltk", extra="data", purpose="--split-sentences") from error
    try:
        punkt = PunktTokenizer(language)
    except LookupError as error:
        raise ConfigurationError(
            f"--split-sentences needs nltk's Punkt model for --lang {language}, which is not "
            "installed; python -m nltk.downloader punkt_tab"
        ) from error

    def split(text: str) -> list[str]:
        sentences: list[str] = []
        for start in range(0, len(text), _WINDOW):
            window = text[start : start + _WINDOW]
            spans = list(punkt.span_tokenize(window))
            ends = [stop for _, stop in spans]
            if keep_newlines:
                ends = [*(begin for begin, _ in spans[1:]), len(window)]
            starts = [begin for begin, _ in spans]
            sentences.extend(window[a:b] for a, b in zip(starts, ends, strict=bool(spans)))
        return sentences

    return split
