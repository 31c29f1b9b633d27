"""Where sample indices are kept, bound to the data they were made from."""

from __future__ import annotations

import hashlib
from pathlib import Path

from megatron.seq1f1b.data.indexed import bin_path, idx_path
from megatron.seq1f1b.data.settings import DataSettings
from megatron.seq1f1b.errors import DataError

_FINGERPRINT_BLOCK = 1 << 16


def cache_directory(settings: DataSettings, prefixes: tuple[str, ...]) -> Path:
    """Where indices for exactly these files are kept.

    Megatron-Core names its cache by path, so data prepared anew under an old name would be read
    through the old index. A fingerprint of the files in the folder's name rules that out.
    """
    base = (
        Path(settings.data_cache_path)
        if settings.data_cache_path
        else Path(prefixes[0]).resolve().parent / "index_cache"
    )
    digest = hashlib.blake2b(digest_size=8)
    for prefix in prefixes:
        digest.update(_fingerprint(prefix))
    return base / digest.hexdigest()


def _fingerprint(prefix: str) -> bytes:
    """Sizes of both files, and the first, middle and last part of the index."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        digest.update(str(bin_path(prefix).stat().st_size).encode())
        with idx_path(prefix).open("rb") as stream:
            size = stream.seek(0, 2)
            digest.update(str(size).encode())
            for place in (0, size // 4, size // 2, max(0, size - _FINGERPRINT_BLOCK)):
                stream.seek(place)
                digest.update(stream.read(_FINGERPRINT_BLOCK))
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read ({error.strerror})") from error
    return digest.digest()
