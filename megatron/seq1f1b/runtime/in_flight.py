"""Messages on their way: each tensor is kept alive until its send has completed, and no longer.

NCCL can be asked whether a send has completed, so finished ones are dropped whenever another one
starts. Gloo can only be waited for; a thread does that, because waiting in the main thread would
let a full channel stop the computation.
"""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist

from megatron.seq1f1b.errors import StepError, first_line


@dataclass(kw_only=True)
class Send:
    """A started send, the tensor it reads and what to call it in a message."""

    work: dist.Work
    message: torch.Tensor | None
    what: str


class InFlight(Protocol):
    """Keeps the tensors of started sends alive."""

    def add(self, send: Send) -> None:
        """Keep `send` until it has completed."""

    def drain(self) -> None:
        """Return once nothing is in flight; StepError where a message could not be delivered."""

    def stop(self) -> None:
        """Release what watches the sends; nothing may be added afterwards."""


def in_flight_for(backend: str) -> InFlight:
    """The keeper that fits a process group's backend."""
    return PolledSends() if backend == "nccl" else AwaitedSends()


class PolledSends:
    """Sends that can be asked whether they have completed (NCCL)."""

    def __init__(self) -> None:
        self._sends: list[Send] = []

    def add(self, send: Send) -> None:
        """Keep `send`, and drop those that have completed since."""
        self._sends = [other for other in self._sends if not other.work.is_completed()]
        self._sends.append(send)

    def drain(self) -> None:
        """Order the current stream behind every send; the host does not block."""
        for send in self._sends:
            send.work.wait()
        self._sends.clear()

    def stop(self) -> None:
        """Nothing watches the sends."""


class AwaitedSends:
    """Sends that can only be waited for (gloo): a thread waits for each in turn."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Send | None] = queue.SimpleQueue()
        self._all_sent = threading.Condition()
        self._num_pending = 0
        self._failure: StepError | None = None
        self._thread = threading.Thread(target=self._reap, name="sends", daemon=True)
        self._thread.start()

    def add(self, send: Send) -> None:
        """Keep `send`; StepError where an earlier one could not be delivered."""
        self._raise_failure()
        with self._all_sent:
            self._num_pending += 1
        self._queue.put(send)

    def drain(self) -> None:
        """Block until every message has left; StepError where one could not be delivered."""
        with self._all_sent:
            self._all_sent.wait_for(lambda: self._num_pending == 0)
        self._raise_failure()

    def stop(self) -> None:
        """End the thread once it has waited for what is in flight."""
        self._queue.put(None)
        self._thread.join()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _reap(self) -> None:
        while (send := self._queue.get()) is not None:
            try:
                send.work.wait()
            except RuntimeError as error:
                self._failure = self._failure or StepError(
                    f"{send.what} was not delivered: {first_line(error)}"
                )
            send.message = None
            with self._all_sent:
                self._num_pending -= 1
                self._all_sent.notify_all()
