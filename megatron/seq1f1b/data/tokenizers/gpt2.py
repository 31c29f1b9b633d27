"""GPT-2's byte-level BPE from `vocab.json` and `merges.txt`, run by tiktoken.

tiktoken merges by the rank of the *result*, Hugging Face's `tokenizers` by the rank of the *pair*.
They agree on every text when each merge makes a token of its own and only joins bytes or results of
earlier merges: then, up to the moment a token's rank comes up, the pieces inside its span are the
same in every text that contains it unbroken, so the only pair that can make it is the one in the
list. Training produces such lists; they are checked here, and a list of another kind is served by
`tokenizers` instead, six times slower and with the same ids.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import tiktoken

from megatron.seq1f1b.data.tokenizers.base import Tokenizer, without_surrogates
from megatron.seq1f1b.errors import DataError

END_OF_TEXT = "<|endoftext|>"

PRETOKENS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s++$|\s+(?!\S)|\s"
"""GPT-2's split of text into words, as `tiktoken_ext.openai_public` has it, except that only white
space at the end is possessive: what has no look-ahead is left to the regex library's automaton, which
makes this form a third faster."""

_WHITE_SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_LONG_WHITE_SPACE = re.compile(f"[{_WHITE_SPACE}]{{65536,}}(?=[^{_WHITE_SPACE}])")


def byte_of_letter() -> dict[str, int]:
    """GPT-2's printable letter for each byte, inverted.

    Bytes that print as themselves in Latin-1 keep their letter; the other 68 take U+0100 onwards.
    """
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printing]
    letters = {chr(byte): byte for byte in printing}
    letters.update({chr(0x100 + index): byte for index, byte in enumerate(others)})
    return letters


def read_vocabulary(path: Path) -> dict[str, int]:
    """Token to id from `vocab.json`, refused unless the ids are exactly 0 to n-1."""
    try:
        vocabulary = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: not a vocabulary in JSON ({error})") from error
    if not isinstance(vocabulary, dict) or not vocabulary:
        raise DataError(f"{path}: expected one JSON object of token: id, as GPT-2's vocab.json")
    ids = sorted(number for number in vocabulary.values() if type(number) is int)
    if ids != list(range(len(vocabulary))):
        raise DataError(
            f"{path}: {len(vocabulary)} tokens must have the ids 0 to {len(vocabulary) - 1}, "
            "each once; is this GPT-2's vocab.json (encoder.json)?"
        )
    return vocabulary


def read_merges(path: Path, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """The pairs of `merges.txt` in order, each part and each result being in the vocabulary."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: merges must be UTF-8 text ({error})") from error
    merges = []
    for number, line in enumerate(lines, start=1):
        line = line.rstrip("\r")
        if not line or (number == 1 and line.startswith("#version")):
            continue
        left, space, right = line.partition(" ")
        if not (left and space and right) or " " in right:
            raise DataError(f"{path}, line {number}: expected two tokens and one space: {line!r}")
        for token in (left, right, left + right):
            if token not in vocabulary:
                raise DataError(
                    f"{path}, line {number}: {token!r} is not in the vocabulary of "
                    f"{len(vocabulary)}; give the vocab.json and merges.txt of one tokenizer"
                )
        merges.append((left, right))
    if not merges:
        raise DataError(f"{path}: no merges; give GPT-2's merges.txt (vocab.bpe)")
    return merges


def is_trained_order(merges: list[tuple[str, str]]) -> bool:
    """Whether every merge makes a new token out of letters and earlier results."""
    made: set[str] = set()
    for left, right in merges:
        known = all(len(part) == 1 or part in made for part in (left, right))
        if not known or left + right in made:
            return False
        made.add(left + right)
    return True


class GPT2BPETokenizer(Tokenizer):
    """GPT-2's byte-level BPE; end-of-document is `<|endoftext|>`.

    That text inside a document is tokenized as ordinary text, as in Megatron: a document cannot
    forge an end of document.
    """

    def __init__(self, *, vocab_file: Path, merge_file: Path) -> None:
        vocabulary = read_vocabulary(vocab_file)
        if END_OF_TEXT not in vocabulary:
            raise DataError(
                f"{vocab_file}: no {END_OF_TEXT} among its {len(vocabulary)} tokens; "
                "GPT2BPETokenizer ends documents with it"
            )
        super().__init__(vocab_size=len(vocabulary), eod=vocabulary[END_OF_TEXT])
        missing = [letter for letter in byte_of_letter() if letter not in vocabulary]
        if missing:
            raise DataError(
                f"{vocab_file}: {len(missing)} of the 256 byte letters are missing, the first "
                f"{missing[0]!r}; some texts could not be written, so train it byte-level"
            )
        merges = read_merges(merge_file, vocabulary)
        self._backend = _TiktokenBackend if is_trained_order(merges) else _PairBackend
        self._codec = self._backend(vocabulary, merges)

    def tokenize(self, text: str) -> list[int]:
        """The ids of `text`; unpaired surrogates count as U+FFFD."""
        ids: list[int] = self.tokenize_to_array(text).tolist()
        return ids

    def tokenize_to_array(self, text: str) -> np.ndarray:
        """As `tokenize`, as an array."""
        return self._codec.encode(without_surrogates(text))

    def detokenize(self, ids: Sequence[int]) -> str:
        """The text of `ids`; bytes that are no valid UTF-8 become U+FFFD."""
        return self._codec.decode(list(ids))


class _TiktokenBackend:
    """tiktoken takes one number for a token's rank and its id.

    Where ids grow with the merges, as training numbers them, ids serve as ranks; else they are
    looked up afterwards.
    """

    def __init__(self, vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> None:
        letters = byte_of_letter()
        tokens = [*letters, *(left + right for left, right in merges)]
        ids = [vocabulary[token] for token in tokens]
        is_in_order = all(low < high for low, high in pairwise(ids[len(letters) :]))
        to_bytes = str.maketrans({letter: chr(byte) for letter, byte in letters.items()})
        raw = [token.translate(to_bytes).encode("latin-1") for token in tokens]
        numbers = ids if is_in_order else list(range(len(tokens)))
        end = vocabulary[END_OF_TEXT] if is_in_order else len(tokens)
        self._id_of_rank = None if is_in_order else np.array(ids, dtype=np.uint32)
        # Tokens that no merge makes (<|endoftext|> and the like) stand for their own text.
        self._bytes_of_id = {number: token.encode() for token, number in vocabulary.items()}
        self._bytes_of_id.update(zip(ids, raw, strict=True))
        # Never matched (nothing is allowed or disallowed below), but without a special token the
        # library looks for an empty one at every character.
        self._encoding = tiktoken.Encoding(
            "gpt2",
            pat_str=PRETOKENS,
            mergeable_ranks=dict(zip(raw, numbers, strict=True)),
            special_tokens={END_OF_TEXT: end},
        )

    def encode(self, text: str) -> np.ndarray:
        try:
            numbers = self._encoding.encode_to_numpy(text, disallowed_special=())
        except ValueError:  # a million characters of white space exhaust the look-ahead's stack
            parts = _without_long_white_space(text)
            numbers = np.concatenate(
                [self._encoding.encode_to_numpy(part, disallowed_special=()) for part in parts]
            )
        ids: np.ndarray = numbers if self._id_of_rank is None else self._id_of_rank[numbers]
        return ids

    def decode(self, ids: list[int]) -> str:
        raw = b"".join(self._bytes_of_id[number] for number in ids)
        return raw.decode("utf-8", errors="replace")


def _without_long_white_space(text: str) -> Iterator[str]:
    """`text` cut before the last character of each long white space that other text follows.

    The cut is a boundary of words anyway: that last character belongs to what follows or stands
    alone, and the rest of the white space is one word.
    """
    start = 0
    for match in _LONG_WHITE_SPACE.finditer(text):
        yield text[start : match.end() - 1]
        start = match.end() - 1
    yield text[start:]


class _PairBackend:
    """Hugging Face's `tokenizers`, for merge lists that tiktoken would read differently."""

    def __init__(self, vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> None:
        from tokenizers import Tokenizer as Library
        from tokenizers import decoders, models, pre_tokenizers

        self._library = Library(models.BPE(vocab=vocabulary, merges=merges))
        self._library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self._library.decoder = decoders.ByteLevel()

    def encode(self, text: str) -> np.ndarray:
        return np.asarray(self._library.encode(text).ids, dtype=np.uint32)

    def decode(self, ids: list[int]) -> str:
        return self._library.decode(ids, skip_special_tokens=False)
