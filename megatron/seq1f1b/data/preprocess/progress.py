"""A bar with documents/s, MB/s and time to go."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts documents and text, and shows both against the bytes of the input.

    On a terminal the bar moves; elsewhere (a log file) a line is printed now and then.
    """

    def __init__(self, *, total_bytes: int | None, log_interval: int) -> None:
        self.num_documents = 0
        self.num_text_bytes = 0
        self._started_at = time.monotonic()
        self._log_interval = log_interval
        self._next_refresh = log_interval
        self._bar = tqdm(
            total=total_bytes,
            unit="B",
            unit_scale=True,
            desc="preprocess",
            mininterval=0.2 if sys.stderr.isatty() else _SECONDS_BETWEEN_LINES,
            dynamic_ncols=True,
        )

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return time.monotonic() - self._started_at

    def update(self, *, num_documents: int, num_text_bytes: int, num_bytes_read: int) -> None:
        """Count a block, and show it once `log_interval` documents have passed."""
        self.num_documents += num_documents
        self.num_text_bytes += num_text_bytes
        if self.num_documents >= self._next_refresh:
            self._next_refresh = self.num_documents + self._log_interval
            seconds = max(self.seconds, 1e-9)
            rate = f"{self.num_documents / seconds:.0f} documents/s"
            self._bar.set_postfix_str(
                f"{rate}, {self.num_text_bytes / seconds / 1e6:.1f} MB/s of text", refresh=False
            )
        self._bar.update(num_bytes_read)
