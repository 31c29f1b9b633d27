"""Buffers that outlive one chunk and are used again in the next microbatch.

Keys, values and their gradients of a whole sequence are the largest buffers of chunked training,
and every microbatch needs the same ones. A pool hands them out and takes them back, so that a
steady-state step allocates none, and a step that forgets one ends with an error that names it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from megatron.seq1f1b.errors import StepError

_Key = tuple[tuple[int, ...], torch.dtype, torch.device]


@dataclass(frozen=True, slots=True)
class _Loan:
    """One buffer handed out, and for what."""

    buffer: torch.Tensor
    purpose: str


class CachePool:
    """Hands out uninitialised buffers and takes them back.

    A returned buffer may be handed out again at once. On an accelerator that is safe because
    whoever used it and whoever uses it next run on the same stream; a user on another stream must
    synchronise before returning.

    Attributes:
        num_allocations: buffers ever allocated; constant once training is in steady state.
    """

    def __init__(self) -> None:
        self.num_allocations = 0
        self._free: dict[_Key, list[torch.Tensor]] = {}
        self._loans: dict[int, _Loan] = {}

    @property
    def num_outstanding(self) -> int:
        """Buffers handed out and not yet returned."""
        return len(self._loans)

    @property
    def live_bytes(self) -> int:
        """Bytes of the buffers handed out and not yet returned."""
        return sum(loan.buffer.nbytes for loan in self._loans.values())

    @property
    def free_bytes(self) -> int:
        """Bytes kept for later use; `trim` gives them up."""
        return sum(buffer.nbytes for buffers in self._free.values() for buffer in buffers)

    def take(
        self, shape: tuple[int, ...], *, dtype: torch.dtype, device: torch.device, purpose: str
    ) -> torch.Tensor:
        """A contiguous, uninitialised buffer; `purpose` names it should it never come back."""
        free = self._free.get((shape, dtype, device))
        if free:
            buffer = free.pop()
        else:
            # An inference tensor could not be written in place by a later training step.
            with torch.inference_mode(False):
                buffer = torch.empty(shape, dtype=dtype, device=device)
            self.num_allocations += 1
        self._loans[id(buffer)] = _Loan(buffer, purpose)
        return buffer

    def give(self, buffer: torch.Tensor) -> None:
        """Take back a buffer that `take` handed out (that very tensor, not a view of it).

        Raises:
            StepError: the pool did not hand it out, or already has it back.
        """
        loan = self._loans.pop(id(buffer), None)
        if loan is None:
            raise StepError(
                f"a {list(buffer.shape)} {buffer.dtype} buffer was returned to a pool that has "
                "not lent it; return each buffer once, to the pool it came from"
            )
        key = (tuple(buffer.shape), buffer.dtype, buffer.device)
        self._free.setdefault(key, []).append(buffer)

    def trim(self) -> None:
        """Give the buffers nobody uses back to the allocator."""
        self._free.clear()

    def assert_empty(self) -> None:
        """Check that everything handed out came back.

        Raises:
            StepError: names every buffer still outstanding, with its shape and size.
        """
        if not self._loans:
            return
        left = "; ".join(
            f"{loan.purpose} {list(loan.buffer.shape)} {loan.buffer.dtype}" for loan in self._loans.values()
        )
        raise StepError(
            f"{self.num_outstanding} attention buffers ({self.live_bytes} bytes) were never "
            f"returned: {left}; close the SequenceState of every microbatch"
        )
