"""The whole preparation: lines in, pairs out, or nothing at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from megatron.seq1f1b.data.indexed import bin_path, idx_path
from megatron.seq1f1b.data.pair_writer import PairWriter
from megatron.seq1f1b.data.preprocess.encode import EncodedBlock, Encoder
from megatron.seq1f1b.data.preprocess.lines import find_inputs, input_bytes, line_blocks
from megatron.seq1f1b.data.preprocess.pool import encoded_blocks
from megatron.seq1f1b.data.preprocess.progress import Progress
from megatron.seq1f1b.data.preprocess.sentences import sentence_splitter
from megatron.seq1f1b.data.stops import raise_if_stopped, stops_deferred
from megatron.seq1f1b.data.tokenizers import Tokenizer
from megatron.seq1f1b.errors import DataError

_SKIPS_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class PreprocessSettings:
    """What to prepare, how and whereto."""

    inputs: tuple[str, ...]
    output_prefix: str
    json_keys: tuple[str, ...] = ("text",)
    make_tokenizer: Callable[[], Tokenizer]
    append_eod: bool = False
    split_sentences: bool = False
    keep_newlines: bool = False
    language: str = "english"
    workers: int = 1
    lines_per_task: int = 1000
    partitions: int = 1
    skip_invalid: bool = False
    log_interval: int = 1000


@dataclass(kw_only=True)
class Summary:
    """What was written."""

    num_documents: int
    num_skipped: int
    num_text_bytes: int
    seconds: float
    num_tokens: dict[str, int]
    """Per prefix."""
    first_skips: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The summary as text."""
        rate = self.num_text_bytes / max(self.seconds, 1e-9) / 1e6
        total = f"{self.num_documents} documents, {self.num_text_bytes / 1e6:.1f} MB"
        text = [f"{total} in {self.seconds:.1f} s ({rate:.1f} MB/s); {self.num_skipped} lines skipped"]
        text.extend(f"  skipped: {reason}" for reason in self.first_skips)
        if self.num_skipped > len(self.first_skips):
            text.append(f"  ... and {self.num_skipped - len(self.first_skips)} more")
        for prefix, tokens in self.num_tokens.items():
            sizes = [path.stat().st_size / 1e6 for path in (bin_path(prefix), idx_path(prefix))]
            text.append(f"{prefix}: {tokens} tokens, .bin {sizes[0]:.1f} MB, .idx {sizes[1]:.1f} MB")
        return text


@dataclass(kw_only=True)
class _Skips:
    """Lines left out, with the first few reasons."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, reasons: list[str]) -> None:
        self.count += len(reasons)
        self.first.extend(reasons[: _SKIPS_SHOWN - len(self.first)])


def make_encoder(settings: PreprocessSettings) -> Encoder:
    """The encoder of a run; picklable as a `partial`, so that workers can make their own."""
    splitter = None
    if settings.split_sentences:
        splitter = sentence_splitter(settings.language, keep_newlines=settings.keep_newlines)
    return Encoder(
        settings.make_tokenizer(),
        json_keys=settings.json_keys,
        append_eod=settings.append_eod,
        skip_invalid=settings.skip_invalid,
        splitter=splitter,
    )


def preprocess(settings: PreprocessSettings) -> Summary:
    """Write one pair per JSON key, `<prefix>_<key>_document` (or `_sentence`).

    Raises:
        ConfigurationError: options that cannot work together, or a missing library.
        DataError: input that cannot be used, or output that cannot be written; then no file of
            this run is left, and pairs of an earlier run are untouched.
    """
    files = find_inputs(settings.inputs)
    encoder = make_encoder(settings)
    level = "sentence" if settings.split_sentences else "document"
    blocks = line_blocks(files, max_lines=settings.lines_per_task, partitions=settings.partitions)
    encoded = encoded_blocks(
        blocks, encoder, make_encoder=partial(make_encoder, settings), workers=settings.workers
    )
    with ExitStack() as stack:
        writers: dict[str, PairWriter] = {}
        for key in settings.json_keys:
            prefix = Path(f"{settings.output_prefix}_{key}_{level}")
            writers[key] = PairWriter(prefix, dtype=encoder.dtype)
            stack.callback(writers[key].discard)
        stack.enter_context(closing(encoded))
        progress = Progress(total_bytes=input_bytes(files), log_interval=settings.log_interval)
        stack.callback(progress.close)
        skips = _write_all(encoded, writers, progress)
        if not progress.num_documents:
            raise DataError(_nothing_to_write(settings, skips))
        for writer in writers.values():
            writer.finish()
        with stops_deferred():
            raise_if_stopped()
            for writer in writers.values():
                writer.publish()
    return Summary(
        num_documents=progress.num_documents,
        num_skipped=skips.count,
        num_text_bytes=progress.num_text_bytes,
        seconds=progress.seconds,
        num_tokens={str(writer.prefix): writer.num_tokens for writer in writers.values()},
        first_skips=skips.first,
    )


def _write_all(encoded: Iterator[EncodedBlock], writers: dict[str, PairWriter], progress: Progress) -> _Skips:
    skips = _Skips()
    for block in encoded:
        raise_if_stopped()
        for key, documents in block.keys.items():
            writers[key].add(documents.tokens, documents.lengths, documents.sequences_per_document)
        skips.add(block.skipped)
        progress.update(
            num_documents=block.num_documents,
            num_text_bytes=block.num_text_bytes,
            num_bytes_read=block.num_bytes_read,
        )
    return skips


def _nothing_to_write(settings: PreprocessSettings, skips: _Skips) -> str:
    """Why there is no document at all."""
    names = " ".join(settings.inputs)
    if skips.count:
        return f"--input {names}: all {skips.count} lines were skipped, the first: {skips.first[0]}"
    return f"--input {names} holds no lines; give JSON lines, one document each"
