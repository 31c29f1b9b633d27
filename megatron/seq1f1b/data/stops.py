"""How the data commands are stopped: at once, but for code that must not be left anywhere."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_stopped_by: int | None = None
_is_deferred = False


@contextmanager
def stoppable() -> Iterator[None]:
    """Within, a SIGTERM unwinds like Ctrl-C does, so that partial files are removed.

    Raises:
        SystemExit: with 130 or 143, if stopped.
    """
    try:
        with _stop_signals_raise():
            yield
    except _Stopped as stop:
        print(f"\nstopped by {signal.Signals(stop.number).name}; nothing was written", file=sys.stderr)
        raise SystemExit(128 + stop.number) from None


def raise_if_stopped() -> None:
    """Stop if a signal asked for it and has not been heard.

    It was deferred, or its exception was lost where Python ignores exceptions (a callback of a weak
    reference). Long work looks here before it goes on, and before its results take their names.
    """
    if _stopped_by is not None:
        raise _Stopped(_stopped_by)


@contextmanager
def stops_deferred() -> Iterator[None]:
    """A stop signal is only noted: code that holds locks must not be left anywhere."""
    with _deferral(True):
        yield


@contextmanager
def stops_at_once() -> Iterator[None]:
    """A stop signal raises even where stops are deferred around: for a read that may wait."""
    with _deferral(False):
        raise_if_stopped()
        yield


class _Stopped(BaseException):
    """A stop signal in the main thread; no `except Exception` may swallow it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def _stop_signals_raise() -> Iterator[None]:
    global _stopped_by
    _stopped_by = None
    before = {number: signal.signal(number, _stop) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, _frame: FrameType | None) -> None:
    global _stopped_by
    _stopped_by = number
    if not _is_deferred:
        raise _Stopped(number)


@contextmanager
def _deferral(is_deferred: bool) -> Iterator[None]:
    global _is_deferred
    before, _is_deferred = _is_deferred, is_deferred
    try:
        yield
    finally:
        _is_deferred = before
