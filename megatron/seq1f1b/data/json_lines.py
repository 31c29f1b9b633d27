"""Texts out of JSON lines in one process, for tools that read a corpus once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from megatron.seq1f1b.data.preprocess.encode import texts_of_line
from megatron.seq1f1b.data.preprocess.lines import line_blocks
from megatron.seq1f1b.errors import DataError


def texts(files: Sequence[str], *, json_key: str) -> Iterator[str]:
    """The text of every line.

    Raises:
        DataError: a line that cannot be used, with its file and number.
    """
    for block in line_blocks(files, max_lines=1000):
        for number, line in zip(block.numbers, block.lines, strict=True):
            try:
                yield texts_of_line(line, (json_key,))[0]
            except DataError as error:
                raise DataError(f"{block.file}, line {number}: {error}") from error
