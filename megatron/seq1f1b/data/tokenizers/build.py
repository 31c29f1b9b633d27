"""A tokenizer by Megatron's name for it.

Libraries are imported when their tokenizer is built: most runs need one of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from megatron.seq1f1b.data.tokenizers.base import Tokenizer, existing_file, required
from megatron.seq1f1b.data.tokenizers.simple import ByteLevelTokenizer, NullTokenizer
from megatron.seq1f1b.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True)
class _Request:
    """The flags of a tokenizer, as given."""

    tokenizer_type: str
    vocab_file: str | Path | None
    merge_file: str | Path | None
    tokenizer_model: str | Path | None
    vocab_size: int | None
    tiktoken_pattern: str
    tiktoken_num_special_tokens: int

    def file(self, name: str) -> Path:
        """The file that the flag of this name gives."""
        flag = "--" + name.replace("_", "-")
        return existing_file(self.text(name), flag=flag)

    def text(self, name: str) -> str:
        """The value of the flag of this name, which must be given."""
        flag = "--" + name.replace("_", "-")
        return required(getattr(self, name), flag=flag, tokenizer_type=self.tokenizer_type)


def build_tokenizer(
    tokenizer_type: str,
    *,
    vocab_file: str | Path | None = None,
    merge_file: str | Path | None = None,
    tokenizer_model: str | Path | None = None,
    vocab_size: int | None = None,
    tiktoken_pattern: str = "v2",
    tiktoken_num_special_tokens: int = 1000,
) -> Tokenizer:
    """The tokenizer that `--tokenizer-type` names.

    Raises:
        ConfigurationError: an unknown name, a flag that this type needs is missing, or a library.
        DataError: a file that is missing or is no tokenizer of this kind.
    """
    build = _BUILDERS.get(tokenizer_type)
    if build is None:
        raise ConfigurationError(
            f"--tokenizer-type {tokenizer_type} does not exist; choose from {', '.join(TOKENIZER_TYPES)}"
        )
    return build(
        _Request(
            tokenizer_type=tokenizer_type,
            vocab_file=vocab_file,
            merge_file=merge_file,
            tokenizer_model=tokenizer_model,
            vocab_size=vocab_size,
            tiktoken_pattern=tiktoken_pattern,
            tiktoken_num_special_tokens=tiktoken_num_special_tokens,
        )
    )


def _null(request: _Request) -> Tokenizer:
    return NullTokenizer(vocab_size=int(request.text("vocab_size")))


def _byte_level(request: _Request) -> Tokenizer:
    return ByteLevelTokenizer(vocab_size=512 if request.vocab_size is None else request.vocab_size)


def _gpt2(request: _Request) -> Tokenizer:
    from megatron.seq1f1b.data.tokenizers.gpt2 import GPT2BPETokenizer

    return GPT2BPETokenizer(vocab_file=request.file("vocab_file"), merge_file=request.file("merge_file"))


def _huggingface(request: _Request) -> Tokenizer:
    from megatron.seq1f1b.data.tokenizers.huggingface import load_huggingface

    return load_huggingface(request.text("tokenizer_model"))


def _sentencepiece(request: _Request) -> Tokenizer:
    from megatron.seq1f1b.data.tokenizers.sentencepiece import SentencePieceTokenizer

    return SentencePieceTokenizer(model_file=request.file("tokenizer_model"))


def _tiktoken(request: _Request) -> Tokenizer:
    from megatron.seq1f1b.data.tokenizers.tiktoken_model import TikTokenizer

    return TikTokenizer(
        model_file=request.file("tokenizer_model"),
        vocab_size=request.vocab_size,
        pattern=request.tiktoken_pattern,
        num_special_tokens=request.tiktoken_num_special_tokens,
    )


_BUILDERS: dict[str, Callable[[_Request], Tokenizer]] = {
    "GPT2BPETokenizer": _gpt2,
    "HuggingFaceTokenizer": _huggingface,
    "SentencePieceTokenizer": _sentencepiece,
    "GPTSentencePieceTokenizer": _sentencepiece,
    "Llama2Tokenizer": _sentencepiece,
    "TikTokenizer": _tiktoken,
    "NullTokenizer": _null,
    "ByteLevelTokenizer": _byte_level,
}

TOKENIZER_TYPES = tuple(_BUILDERS)
"""Every name that `build_tokenizer` knows."""
