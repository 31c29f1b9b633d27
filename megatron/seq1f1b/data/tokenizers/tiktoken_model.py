"""Megatron-Core's own `TikTokenizer`: a JSON list of ranked tokens behind special ids."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from megatron.seq1f1b.data.tokenizers.base import Tokenizer, without_surrogates
from megatron.seq1f1b.errors import DataError

NUM_SPECIAL_TOKENS = 1000
"""Ids before the first ranked token, unless said otherwise."""


class TikTokenizer(Tokenizer):
    """Megatron-Core's tiktoken tokenizer; end-of-document is `</s>`."""

    def __init__(
        self,
        *,
        model_file: Path,
        vocab_size: int | None = None,
        pattern: str = "v2",
        num_special_tokens: int = NUM_SPECIAL_TOKENS,
    ) -> None:
        """Megatron-Core reads the file.

        Args:
            model_file: a JSON list of objects `rank`, `token_bytes` (base64), `token_str`.
            vocab_size: ids, special ones included; default: 131072.
            pattern: how text is cut into words, `v1` or `v2`.
            num_special_tokens: ids before the first ranked token.
        """
        with warnings.catch_warnings():
            for known in ("Transformer Engine and Apex are not", "The following imports from `dynamic_con"):
                warnings.filterwarnings("ignore", known)  # on import, in commands that only tokenize
            from megatron.core.tokenizers.text.libraries import tiktoken_tokenizer as core
        size = core.DEFAULT_TIKTOKEN_MAX_VOCAB if vocab_size is None else vocab_size
        try:
            self._core = core.TikTokenTokenizer(
                str(model_file),
                vocab_size=size,
                pattern=pattern,
                num_special_tokens=num_special_tokens,
            )
        except (AssertionError, ValueError, KeyError, AttributeError) as error:
            raise DataError(
                f"{model_file} is no vocabulary for TikTokenizer with {size} ids, "
                f"{num_special_tokens} of them special: {error or 'its entries do not fit'}; give "
                "Megatron's JSON list and a --vocab-size of at most its length plus the special ids"
            ) from error
        super().__init__(vocab_size=size, eod=self._core.eod)

    def tokenize(self, text: str) -> list[int]:
        """The ids of `text`; special tokens written out in it count as such, as upstream."""
        return list(self._core.text_to_ids(without_surrogates(text)))

    def detokenize(self, ids: Sequence[int]) -> str:
        """The text of `ids`; bytes that are no valid UTF-8 become U+FFFD."""
        special = self._core.special_tokens
        raw = b"".join(
            special[number].encode()
            if number < len(special)
            else self._core.tokenizer.decode_single_token_bytes(number)
            for number in ids
        )
        return raw.decode("utf-8", errors="replace")
