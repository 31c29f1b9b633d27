"""Blocks of JSON lines from files, compressed files and standard input."""

from __future__ import annotations

import glob
import gzip
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from megatron.seq1f1b.data.tokenizers.base import missing_extra
from megatron.seq1f1b.errors import ConfigurationError, DataError

STANDARD_INPUT = "-"
_BLOCK_BYTES = 1 << 20
_READ_BYTES = 1 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, kw_only=True)
class LineBlock:
    """Some lines of one file with their numbers, which count from 1."""

    file: str
    numbers: Sequence[int]
    lines: list[bytes]
    num_bytes_read: int
    """Bytes of the file on disk consumed since the block before."""


def find_inputs(patterns: Sequence[str]) -> list[str]:
    """The files that `patterns` name, each pattern's in sorted order.

    Raises:
        DataError: a pattern that matches nothing, or a folder.
    """
    files: list[str] = []
    for pattern in patterns:
        is_literal = pattern == STANDARD_INPUT or Path(pattern).exists()
        found = [pattern] if is_literal else sorted(glob.glob(pattern))  # noqa: PTH207 - takes absolute patterns
        if not found:
            raise DataError(f"--input {pattern}: no such file, and no file matches it as a pattern")
        files.extend(found)
    for file in files:
        if file != STANDARD_INPUT and Path(file).is_dir():
            raise DataError(f"--input {file} is a folder; give files or a pattern, as {file}/*.jsonl")
    return files


def input_bytes(files: Sequence[str]) -> int | None:
    """Bytes on disk of all files; `None` where standard input is among them."""
    if STANDARD_INPUT in files:
        return None
    return sum(Path(file).stat().st_size for file in files)


def line_blocks(files: Sequence[str], *, max_lines: int, partitions: int = 1) -> Iterator[LineBlock]:
    """All lines of all files in blocks of at most `max_lines` lines and about 1 MiB.

    With `partitions` n > 1 the order is that of Megatron's partitioned tool: first lines 1, n+1,
    2n+1, ... of the input, then lines 2, n+2, ..., which takes one pass over the files for each.
    """
    if partitions > 1 and STANDARD_INPUT in files:
        raise ConfigurationError(
            f"--partitions {partitions} deals lines out in several passes, and standard input can "
            "be read once; add --keep-sequential-samples, or give a file"
        )
    for partition in range(partitions):
        counted = 0
        for file in files:
            first = (partition - counted) % partitions
            pass_ = _Pass(file=file, max_lines=max_lines, first=first, step=partitions)
            yield from pass_.blocks()
            counted += pass_.num_lines


class _Pass:
    """One reading of one file: every `step`-th line from `first` on."""

    def __init__(self, *, file: str, max_lines: int, first: int, step: int) -> None:
        self.num_lines = 0
        self._file = file
        self._max_lines = max_lines
        self._first = first
        self._step = step

    def blocks(self) -> Iterator[LineBlock]:
        """The lines of this pass, block by block; `num_lines` counts the file's as they are read."""
        with _opened(self._file) as (stream, raw):
            numbers: list[int] = []
            lines: list[bytes] = []
            size = reported = 0
            for line in stream:
                self.num_lines += 1
                if (self.num_lines - 1) % self._step != self._first:
                    continue
                if self.num_lines == 1:
                    line = line.removeprefix(_BYTE_ORDER_MARK)
                numbers.append(self.num_lines)
                lines.append(line)
                size += len(line)
                if len(lines) >= self._max_lines or size >= _BLOCK_BYTES:
                    position = self._position(raw)
                    yield self._block(numbers, lines, position - reported)
                    numbers, lines, size, reported = [], [], 0, position
            if lines:
                yield self._block(numbers, lines, self._position(raw) - reported)

    def _block(self, numbers: list[int], lines: list[bytes], num_bytes: int) -> LineBlock:
        return LineBlock(file=self._file, numbers=numbers, lines=lines, num_bytes_read=num_bytes)

    def _position(self, raw: BinaryIO) -> int:
        """Bytes on disk consumed, shared evenly over the passes of a partitioned reading."""
        return 0 if self._file == STANDARD_INPUT else raw.tell() // self._step


@contextmanager
def _opened(file: str) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """The decompressed stream of `file`, and the stream on disk below it."""
    try:
        with ExitStack() as stack:
            if file == STANDARD_INPUT:
                yield sys.stdin.buffer, sys.stdin.buffer
                return
            raw = stack.enter_context(Path(file).open("rb", buffering=_READ_BYTES))
            if file.endswith(".gz"):
                yield cast(BinaryIO, stack.enter_context(gzip.GzipFile(fileobj=raw))), raw
            elif file.endswith(".zst"):
                yield stack.enter_context(_zstd_stream(raw)), raw
            else:
                yield raw, raw
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file} cannot be read: {error}") from error


@contextmanager
def _zstd_stream(raw: BinaryIO) -> Iterator[BinaryIO]:
    try:
        import zstandard
    except ImportError as error:
        raise missing_extra("zstandard", extra="data", purpose="reading .zst files") from error
    import io

    reader = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
    try:
        with io.BufferedReader(cast(io.RawIOBase, reader), buffer_size=_READ_BYTES) as stream:
            yield cast(BinaryIO, stream)
    except zstandard.ZstdError as error:
        raise DataError(f"{raw.name} is no complete zstd stream: {error}") from error
