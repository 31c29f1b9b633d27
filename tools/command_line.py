"""How the small commands read their command line, and how they end."""

from __future__ import annotations

import argparse
import signal
from typing import NoReturn


def end_by_signals() -> None:
    """Ctrl-C ends the command, and so does a reader that has seen enough (`| head`): without a traceback."""
    for number in (signal.SIGINT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)


class Parser(argparse.ArgumentParser):
    """Helps with the command's own text, and says what is wrong in one line, without the usage."""

    def __init__(self, description: str | None) -> None:
        super().__init__(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )

    def error(self, message: str) -> NoReturn:
        """End with status 2."""
        self.exit(2, f"{self.prog}: {message}\n")
