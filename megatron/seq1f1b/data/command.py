"""How the data commands end: one message and a status, never a traceback for a user's mistake."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from types import FrameType

from megatron.seq1f1b.errors import Seq1F1BError


def run_command(command: Callable[[], None]) -> int:
    """Run `command` and return the exit status: 0, 1 for refused input, 130 or 143 if stopped.

    A SIGTERM unwinds like Ctrl-C does, so that partial files are removed.
    """
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        command()
    except Seq1F1BError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    except _Terminated:
        print("terminated; nothing was written", file=sys.stderr)
        return 143
    finally:
        signal.signal(signal.SIGTERM, previous)
    return 0


class _Terminated(BaseException):
    """Raised in the main thread on SIGTERM; no `except Exception` may swallow it."""


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise _Terminated
