"""SentencePiece models, Llama's among them.

Ids are those of the model alone, without a beginning-of-sequence id, as Megatron-Core 0.16 serves
the types `SentencePieceTokenizer`, `GPTSentencePieceTokenizer` and `Llama2Tokenizer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from megatron.seq1f1b.data.tokenizers.base import Tokenizer, missing_extra, without_surrogates
from megatron.seq1f1b.errors import DataError


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model; end-of-document is its end-of-sequence piece."""

    def __init__(self, *, model_file: Path) -> None:
        try:
            import sentencepiece
        except ImportError as error:
            raise missing_extra(
                "sentencepiece", extra="data", purpose=f"--tokenizer-model {model_file}"
            ) from error
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
        except (OSError, RuntimeError) as error:
            raise DataError(f"{model_file} is no SentencePiece model: {error}") from error
        if self._model.eos_id() < 0:
            raise DataError(f"{model_file} has no end-of-sequence piece to end documents with")
        super().__init__(vocab_size=self._model.get_piece_size(), eod=self._model.eos_id())

    def tokenize(self, text: str) -> list[int]:
        """The ids of `text`; unpaired surrogates count as U+FFFD."""
        ids: list[int] = self._model.encode(without_surrogates(text))
        return ids

    def detokenize(self, ids: Sequence[int]) -> str:
        """The text of `ids`; control pieces are left out, as the library does."""
        return str(self._model.decode(list(ids)))
