"""What can be known to be wrong with prepared data before any process joins.

Cheap on purpose: headers, file sizes, and ids at places spread over the file. The full walk is
`tools/inspect_data.py --verify`.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from megatron.seq1f1b.data.indexed import IndexedFiles, bin_path, idx_path
from megatron.seq1f1b.data.settings import DataSettings
from megatron.seq1f1b.data.sources import SPLITS, Blends, Sizes, parse_split, resolve_blends
from megatron.seq1f1b.errors import ConfigurationError, DataError

_PROBES = 64
_TOKENS_PER_PROBE = 16384


def check_data_settings(
    settings: DataSettings, *, train_samples: int, valid_samples: int = 0, test_samples: int = 0
) -> None:
    """Refuse data settings that cannot run: sources, blends, split, and the files behind them.

    Raises:
        ConfigurationError: flags that contradict each other or are missing.
        DataError: files that cannot be trained on, or a split without text.
    """
    blends = resolve_blends(settings)
    if blends is None:
        return
    check_data_files(blends.prefixes, settings.tokenizer.vocab_size)
    sizes = (train_samples, valid_samples, test_samples)
    check_shares(blends, split=settings.split, sizes=sizes)


def check_shares(blends: Blends, *, split: str, sizes: Sizes) -> None:
    """Refuse splits of which samples are asked for and that hold no text.

    Megatron-Core would count the epochs that it takes to fill them without end.
    """
    shares = parse_split(split) if blends.common else ((0.0, 1.0),) * len(SPLITS)
    for place, (name, size, share) in enumerate(zip(SPLITS, sizes, shares, strict=True)):
        if not size:
            continue
        blend = blends.common or (blends.per_split and blends.per_split[place])
        if not blend:
            raise ConfigurationError(
                f"{size} {name} samples are asked for, and --{name}-data-path is not given; "
                f"give it, or ask for no {name} samples (--eval-iters 0)"
            )
        for prefix in blend.prefixes:
            _check_share(prefix, share, name=name, split=split)


def _check_share(prefix: str, share: tuple[float, float] | None, *, name: str, split: str) -> None:
    lengths = IndexedFiles(prefix).lengths
    first, last = (round(bound * len(lengths)) for bound in share or (0.0, 0.0))
    if not lengths[first:last].any():
        raise DataError(
            f"--split {split} leaves no text of {prefix} ({len(lengths)} documents with text) "
            f"for {name}; give {name} a larger part, more documents, or ask for no {name} samples"
        )


def check_data_files(prefixes: Iterable[str], vocab_size: int) -> None:
    """Refuse prefixes whose files cannot be trained on with `vocab_size` ids.

    Checked are: both files exist; magic, version and dtype; both sizes agree with the header and
    the last entry of the index; there are tokens; and about a million ids, at 64 places spread
    evenly from the first token to the last, lie in the vocabulary (small files: every id).

    Raises:
        DataError: the first thing found wrong, with file, numbers and what to do.
    """
    for prefix in prefixes:
        files = IndexedFiles(prefix)
        if files.header.dtype.kind not in "iu":
            raise DataError(
                f"{idx_path(prefix)} says that the ids are {files.header.dtype.name}; token ids "
                "must be integers: prepare the data again"
            )
        if files.tokens.size == 0:
            raise DataError(
                f"{bin_path(prefix)} holds no tokens ({files.num_documents} documents, all empty); "
                "prepare data that has text"
            )
        for start in _probe_starts(files.tokens.size):
            check_ids(files, start, start + _TOKENS_PER_PROBE, vocab_size=vocab_size)


def check_ids(files: IndexedFiles, start: int, stop: int, *, vocab_size: int) -> None:
    """Refuse ids outside [0, vocab_size) among tokens [start, stop)."""
    ids = files.tokens[start:stop]
    low, high = int(ids.min()), int(ids.max())
    if low >= 0 and high < vocab_size:
        return
    outside = np.flatnonzero((ids < 0) | (ids >= vocab_size))
    place = start + int(outside[0])
    raise DataError(
        f"{bin_path(files.prefix)}: token {place} has id {int(files.tokens[place])}, outside the "
        f"vocabulary of {vocab_size} ids (0 to {vocab_size - 1}); train with the tokenizer that "
        "prepared the data, or prepare it again"
    )


def _probe_starts(num_tokens: int) -> list[int]:
    """Where probes begin; together they cover everything if the file is small."""
    last = max(0, num_tokens - _TOKENS_PER_PROBE)
    return sorted({int(start) for start in np.linspace(0, last, num=_PROBES)})
