"""What a run says on the terminal: rank 0 alone speaks."""

from __future__ import annotations

import os


def say(text: str) -> None:
    """Print on rank 0, at once."""
    if os.environ.get("RANK", "0") == "0":
        print(text, flush=True)
