"""How the commands read their command line, and how they end."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from megatron.seq1f1b.errors import Seq1F1BError


def end_by_signals() -> None:
    """Ctrl-C ends the command, and so does a reader that has seen enough (`| head`): without a traceback."""
    for number in (signal.SIGINT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)


def run(main: Callable[[], int | None], *, in_own_words: Callable[[str], str] = str) -> NoReturn:
    """Run a command and end with its status: 2, and one line of rank 0, for what it refuses.

    Refused are our own errors, and files of the user's that cannot be read or written.
    """
    try:
        sys.exit(main())
    except Seq1F1BError as error:
        said = str(error)
    except OSError as error:
        if error.filename is None:
            raise
        said = f"{error.filename}: {error.strerror}"
    if os.environ.get("RANK", "0") == "0":
        print(f"{Path(sys.argv[0]).name}: {in_own_words(said)}", file=sys.stderr)
    sys.exit(2)


class Parser(argparse.ArgumentParser):
    """Helps with the command's own text, and says what is wrong in one line, without the usage."""

    def __init__(self, description: str | None = None, **options: Any) -> None:
        super().__init__(
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **options,
        )

    def error(self, message: str) -> NoReturn:
        """End with status 2."""
        self.exit(2, f"{self.prog}: {message}\n")
