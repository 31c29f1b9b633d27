"""A sample corpus of real text that needs no download: the Python sources on this machine."""

from __future__ import annotations

import json
import sysconfig
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from megatron.seq1f1b.data.files import atomic_file
from megatron.seq1f1b.errors import DataError

_SKIPPED_FOLDERS = {"site-packages", "dist-packages", "__pycache__", "lib2to3", "bad_coding"}
_FEWEST_BYTES = 100
"""Shorter files are mostly empty package markers."""


@dataclass(frozen=True, kw_only=True)
class CorpusSummary:
    """What a corpus was made of."""

    num_documents: int
    num_text_bytes: int
    num_library_documents: int
    """Documents that come from installed packages because the standard library was too small."""


def write_sample_corpus(
    output: Path, *, json_key: str, num_bytes: int, advance: Callable[[int], object]
) -> CorpusSummary:
    """Write about `num_bytes` of Python source as JSON lines, one file a document.

    The order is that of the paths, the standard library first and installed packages after it, so
    that one interpreter always gives the same corpus. `advance` hears how many bytes of text each
    document had.

    Raises:
        DataError: no sources at all, or the output cannot be written.
    """
    written = documents = from_packages = 0
    with atomic_file(output) as stream:
        for text, is_package in _texts():
            stream.write(json.dumps({json_key: text}, ensure_ascii=False).encode() + b"\n")
            size = len(text.encode())
            advance(size)
            written += size
            documents += 1
            from_packages += is_package
            if written >= num_bytes:
                break
        if not documents:
            raise DataError("this interpreter comes without Python sources; give a corpus of your own")
    return CorpusSummary(num_documents=documents, num_text_bytes=written, num_library_documents=from_packages)


def _texts() -> Iterator[tuple[str, bool]]:
    """Each usable source with whether it is of an installed package."""
    paths = sysconfig.get_paths()
    for place in (paths["stdlib"], paths["purelib"]):
        root = Path(place)
        for path in sorted(root.rglob("*.py")):
            if _SKIPPED_FOLDERS.isdisjoint(path.relative_to(root).parts[:-1]):
                text = _text(path)
                if text is not None:
                    yield text, place == paths["purelib"]


def _text(path: Path) -> str | None:
    """The source as its own encoding line says, or `None` if it is tiny or broken on purpose."""
    try:
        with tokenize.open(path) as stream:
            text = stream.read()
        text.encode()
    except (OSError, SyntaxError, UnicodeError):
        return None
    return text if len(text) >= _FEWEST_BYTES and "\x00" not in text else None
