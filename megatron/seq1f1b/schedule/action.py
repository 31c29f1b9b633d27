"""One scheduled operation, and its text form.

The same text stands in CSV files, grids, logs, profiler ranges, traces, error messages and tests:
`2F3.1` is virtual stage 2, forward, microbatch 3, chunk 1. Virtual stages are numbered over the
whole pipeline, in the order in which activations pass them.

    2SEND_F3.1  virtual stage 2 sends its output to virtual stage 3
    3RECV_F3.1  virtual stage 3 posts the receive of that message
    2SEND_B3.1  virtual stage 2 sends the gradient of its input to virtual stage 1
    1RECV_B3.1  virtual stage 1 posts the receive of that message
"""

from __future__ import annotations

import re
from enum import Enum
from typing import NamedTuple

from megatron.seq1f1b.errors import PlanError


class ActionKind(str, Enum):
    """What an action does; the value is what stands in an action's text."""

    F = "F"
    """Forward of one chunk through one virtual stage."""
    B = "B"
    """Whole backward: gradients of the input and of the weights."""
    I = "I"  # noqa: E741 - the literature's letter for the input-gradient half
    """Input-gradient half of the backward; takes B's place in every dependency."""
    W = "W"
    """Weight-gradient half of the backward."""
    SEND_F = "SEND_F"
    """Start sending an output to the next virtual stage."""
    RECV_F = "RECV_F"
    """Post the receive of an input; the forward that consumes it waits for it."""
    SEND_B = "SEND_B"
    """Start sending an input gradient to the previous virtual stage."""
    RECV_B = "RECV_B"
    """Post the receive of an output gradient; the backward that consumes it waits for it."""

    # Enum hashes in Python code; plans of millions of actions want the C function.
    __hash__ = str.__hash__

    @property
    def is_compute(self) -> bool:
        """Whether the action computes (F, B, I, W) rather than communicates."""
        return self in _COMPUTE

    @property
    def is_send(self) -> bool:
        """Whether the action is SEND_F or SEND_B."""
        return self is ActionKind.SEND_F or self is ActionKind.SEND_B

    @property
    def is_receive(self) -> bool:
        """Whether the action is RECV_F or RECV_B."""
        return self is ActionKind.RECV_F or self is ActionKind.RECV_B


_COMPUTE = frozenset((ActionKind.F, ActionKind.B, ActionKind.I, ActionKind.W))

_TEXT = re.compile(r"(\d{1,9})(F|B|I|W|SEND_F|RECV_F|SEND_B|RECV_B)(\d{1,9})\.(\d{1,9})", re.ASCII)

_MAX_SHOWN = 40
"""Characters of what is no action that a message shows; a file of another kind may be one long cell."""


class Action(NamedTuple):
    """One operation on one chunk of one microbatch at one virtual stage."""

    kind: ActionKind
    virtual_stage: int
    microbatch: int
    chunk: int

    def __str__(self) -> str:
        return f"{self.virtual_stage}{self.kind.value}{self.microbatch}.{self.chunk}"

    @classmethod
    def parse(cls, text: str) -> Action:
        """The action that a text such as `2F3.1` stands for; blanks around it are ignored.

        Raises:
            PlanError: the text is no action.
        """
        match = _TEXT.fullmatch(text.strip())
        if match is None:
            kinds = ", ".join(kind.value for kind in ActionKind)
            shown = text.strip()
            if len(shown) > _MAX_SHOWN:
                shown = f"{shown[:_MAX_SHOWN]}..."
            raise PlanError(
                f"{shown!r} is not an action; write virtual stage, kind, microbatch, '.', "
                f"chunk, as in 2F3.1, with one of the kinds {kinds}"
            )
        virtual_stage, kind, microbatch, chunk = match.groups()
        return cls(ActionKind(kind), int(virtual_stage), int(microbatch), int(chunk))
