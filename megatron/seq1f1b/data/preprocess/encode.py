"""A block of JSON lines to token ids: what worker processes do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from megatron.seq1f1b.data.indexed import token_dtype
from megatron.seq1f1b.data.preprocess.lines import LineBlock
from megatron.seq1f1b.data.preprocess.sentences import Splitter
from megatron.seq1f1b.data.tokenizers.base import Tokenizer
from megatron.seq1f1b.errors import DataError


@dataclass(frozen=True, kw_only=True)
class EncodedDocuments:
    """Documents of one JSON key in the shape that `PairWriter.add` takes."""

    tokens: np.ndarray
    lengths: np.ndarray
    sequences_per_document: np.ndarray


@dataclass(frozen=True, kw_only=True)
class EncodedBlock:
    """What became of a block of lines."""

    keys: dict[str, EncodedDocuments]
    num_documents: int
    num_text_bytes: int
    num_bytes_read: int
    skipped: list[str]
    """Why lines were left out, with their place."""


class Encoder:
    """Turns blocks of lines into ids, key by key."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        json_keys: Sequence[str],
        append_eod: bool,
        skip_invalid: bool,
        splitter: Splitter | None = None,
    ) -> None:
        """Nothing is read yet.

        Args:
            tokenizer: text to ids.
            json_keys: the keys whose texts are wanted, one output each.
            append_eod: put an end-of-document id after each document that has tokens.
            skip_invalid: leave out lines that cannot be used, rather than refuse them.
            splitter: text to sentences; default: a document is one sequence.
        """
        self._tokenizer = tokenizer
        self._keys = tuple(json_keys)
        self._append_eod = append_eod
        self._skip_invalid = skip_invalid
        self._splitter = splitter
        self.dtype = token_dtype(tokenizer.vocab_size)
        self._end = np.array([tokenizer.eod], dtype=self.dtype)

    def encode(self, block: LineBlock) -> EncodedBlock:
        """The ids of a block.

        Raises:
            DataError: a line that cannot be used, with its file and number; with `skip_invalid`
                it is left out of every key instead.
        """
        collected: dict[str, list[list[np.ndarray]]] = {key: [] for key in self._keys}
        skipped = []
        for number, line in zip(block.numbers, block.lines, strict=True):
            try:
                sequences = [self._sequences(text) for text in texts_of_line(line, self._keys)]
            except DataError as error:
                reason = f"{block.file}, line {number}: {error}"
                if not self._skip_invalid:
                    raise DataError(f"{reason}; mend the line, or pass --skip-invalid") from error
                skipped.append(reason)
                continue
            for key, document in zip(self._keys, sequences, strict=True):
                collected[key].append(document)
        return EncodedBlock(
            keys={key: self._joined(documents) for key, documents in collected.items()},
            num_documents=len(block.lines) - len(skipped),
            num_text_bytes=sum(map(len, block.lines)),
            num_bytes_read=block.num_bytes_read,
            skipped=skipped,
        )

    def _sequences(self, text: str) -> list[np.ndarray]:
        """The sequences of a document that have tokens, the last with end-of-document."""
        parts = [text] if self._splitter is None else self._splitter(text)
        arrays = [self._tokenizer.tokenize_to_array(part).astype(self.dtype) for part in parts]
        sequences = [array for array in arrays if array.size]
        if self._append_eod and sequences:
            sequences[-1] = np.concatenate((sequences[-1], self._end))
        return sequences

    def _joined(self, documents: list[list[np.ndarray]]) -> EncodedDocuments:
        sequences = [sequence for document in documents for sequence in document]
        empty = np.empty(0, dtype=self.dtype)
        return EncodedDocuments(
            tokens=np.concatenate((empty, *sequences)),
            lengths=np.array([len(sequence) for sequence in sequences], dtype=np.int64),
            sequences_per_document=np.array([len(document) for document in documents], dtype=np.int64),
        )


def texts_of_line(line: bytes, keys: Sequence[str]) -> list[str]:
    """The texts of a JSON line, in the order of `keys`.

    Raises:
        DataError: what is wrong with the line, without its place.
    """
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"byte {error.start + 1} of the line is not valid UTF-8 ({error.reason})") from error
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON: {error.msg} at column {error.colno}") from error
    except (RecursionError, ValueError) as error:
        raise DataError(f"not usable JSON: {error}") from error
    if not isinstance(record, dict):
        raise DataError(f"expected a JSON object, found {_kind(record)}")
    return [_text(record, key) for key in keys]


def _text(record: dict[str, object], key: str) -> str:
    if key not in record:
        found = ", ".join(map(repr, list(record)[:20])) or "none"
        raise DataError(f"no key {key!r}; the keys of this line are {found}")
    text = record[key]
    if not isinstance(text, str):
        raise DataError(f"the value of {key!r} must be a string, found {_kind(text)}")
    return text


def _kind(value: object) -> str:
    """What a JSON value is, in JSON's words."""
    names = {
        dict: "an object",
        list: "an array",
        str: "a string",
        bool: "a boolean",
        int: "a number",
        float: "a number",
        type(None): "null",
    }
    return names[type(value)]
