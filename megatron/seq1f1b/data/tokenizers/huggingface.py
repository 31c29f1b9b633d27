"""Hugging Face tokenizers from a `tokenizer.json`, or by way of transformers.

A `tokenizer.json` is served by the small `tokenizers` library alone; a folder without one, or a name
on the hub, needs transformers. Ids carry no special tokens of the library's own making, as in
Megatron-Core: preprocessing ends documents itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from megatron.seq1f1b.data.tokenizers.base import Tokenizer, missing_extra, without_surrogates
from megatron.seq1f1b.errors import DataError

_USUAL_ENDS = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "<|eot_id|>", "<|im_end|>")
_SETTINGS_FILES = ("tokenizer_config.json", "special_tokens_map.json")


class HuggingFaceTokenizer(Tokenizer):
    """A Hugging Face tokenizer; end-of-document is its end-of-sequence token."""

    def __init__(
        self,
        *,
        vocab_size: int,
        eod: int,
        encode: Callable[[str], list[int]],
        decode: Callable[[list[int]], str],
    ) -> None:
        super().__init__(vocab_size=vocab_size, eod=eod)
        self._encode = encode
        self._decode = decode

    def tokenize(self, text: str) -> list[int]:
        """The ids of `text`; unpaired surrogates count as U+FFFD."""
        return self._encode(without_surrogates(text))

    def detokenize(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens included."""
        return self._decode(list(ids))


def load_huggingface(model: str) -> HuggingFaceTokenizer:
    """The tokenizer of a `tokenizer.json`, of a folder, or of a name on the hub.

    Raises:
        ConfigurationError: transformers is needed and not installed.
        DataError: no tokenizer there, or one without an end-of-sequence token.
    """
    path = Path(model)
    file = path / "tokenizer.json" if path.is_dir() else path
    return _from_file(file) if file.is_file() else _from_transformers(model)


def _from_file(file: Path) -> HuggingFaceTokenizer:
    from tokenizers import Tokenizer as Library

    try:
        library = Library.from_file(str(file))
    except Exception as error:  # the library raises plain Exception
        raise DataError(f"{file} is no tokenizer.json: {error}") from error
    library.no_truncation()
    library.no_padding()
    vocabulary = library.get_vocab(with_added_tokens=True)
    return HuggingFaceTokenizer(
        vocab_size=max(vocabulary.values()) + 1,
        eod=_end_id(file, vocabulary),
        encode=lambda text: list(library.encode(text, add_special_tokens=False).ids),
        decode=lambda ids: str(library.decode(ids, skip_special_tokens=False)),
    )


def _end_id(file: Path, vocabulary: dict[str, int]) -> int:
    """The end-of-sequence token that the files beside `file` name, or else a usual one."""
    for name in _SETTINGS_FILES:
        settings = file.with_name(name)
        if not settings.is_file():
            continue
        token = json.loads(settings.read_text(encoding="utf-8")).get("eos_token")
        token = token.get("content") if isinstance(token, dict) else token
        if token in vocabulary:
            return vocabulary[token]
    for token in _USUAL_ENDS:
        if token in vocabulary:
            return vocabulary[token]
    raise DataError(
        f"{file}: no end-of-sequence token; name one as eos_token in {_SETTINGS_FILES[0]} beside "
        f"it (looked for {', '.join(_USUAL_ENDS)})"
    )


def _from_transformers(model: str) -> HuggingFaceTokenizer:
    try:
        from transformers import AutoTokenizer  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise missing_extra(
            "transformers", extra="hf", purpose=f"--tokenizer-model {model} (no tokenizer.json there)"
        ) from error
    try:
        library = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise DataError(f"--tokenizer-model {model}: transformers finds no tokenizer: {error}") from error
    if library.eos_token_id is None:
        raise DataError(f"--tokenizer-model {model} has no end-of-sequence token to end documents with")
    return HuggingFaceTokenizer(
        vocab_size=max(library.get_vocab().values()) + 1,
        eod=int(library.eos_token_id),
        encode=lambda text: list(library.encode(text, add_special_tokens=False)),
        decode=lambda ids: str(library.decode(ids)),
    )
