"""What a process says when another one is gone or does not answer.

Messages of our own plans name action and peer themselves. Collectives inside Megatron-Core report a
lost peer as the backend does; here that becomes one line that says where this process was.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist

from megatron.seq1f1b.errors import StepError, first_line

_MARKS = ("gloo/transport", "NCCL", "ncclResult")
"""Torch gives no type of their own to the errors of its backends."""


@contextmanager
def lost_peers_named(iteration: int) -> Iterator[None]:
    """Turn the loss of a peer during an iteration into a StepError; other errors pass.

    Raises:
        StepError: another process ended, or did not answer within --distributed-timeout-minutes.
    """
    try:
        yield
    except StepError:
        raise  # an action of a plan, which has named its peer
    except RuntimeError as error:
        if not is_lost_peer(error):
            raise
        lost = f"iteration {iteration}: lost a peer in {_place(error)}"
        raise StepError(f"{lost}: {first_line(error)}") from error


def is_lost_peer(error: RuntimeError) -> bool:
    """Whether an error is a backend's word for a process that is gone or silent."""
    return isinstance(error, dist.DistError) or any(mark in str(error) for mark in _MARKS)


def _place(error: BaseException) -> str:
    """The innermost function of ours or Megatron-Core's that was running."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "megatron" in Path(frame.filename).parts]
    return f"{ours[-1].name} of {Path(ours[-1].filename).name}" if ours else "a collective"
