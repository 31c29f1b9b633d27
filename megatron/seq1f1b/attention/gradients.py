"""Where a chunk's backward puts the gradients of keys and values.

A backend computes them for whatever rows its kernel calls cover; this object knows which of those
rows belong to the prefix (they accumulate, for the chunks that own them) and which to the chunk
itself (they leave through autograd, together with what later chunks left there).
"""

from __future__ import annotations

import torch

from megatron.seq1f1b.chunk import Chunk

ALL_ROWS = slice(None)


class KVGradients:
    """Collects dK and dV of one chunk's backward.

    Args:
        chunk: whose backward this is.
        key: "batch groups rows head_dim", for batch, groups, head_dim, dtype and device.
        accumulator: "two batch groups rows head_dim", the sums so far for rows [0, rows), which
            cover the chunk unless it is the last one; None if the sequence is one chunk.
    """

    def __init__(self, *, chunk: Chunk, key: torch.Tensor, accumulator: torch.Tensor | None) -> None:
        self._chunk = chunk
        self._key = key
        self._accumulator = accumulator
        self._own: torch.Tensor | None = None
        self._direct: tuple[torch.Tensor, torch.Tensor] | None = None
        if accumulator is not None and accumulator.shape[3] >= chunk.stop:
            self._own = accumulator.narrow(3, chunk.start, chunk.length)

    def add(
        self,
        start: int,
        grad_key: torch.Tensor,
        grad_value: torch.Tensor,
        *,
        batch: slice = ALL_ROWS,
    ) -> None:
        """Add gradients of keys and values [start, start + n), "batch groups n head_dim" each.

        They are used up: the caller neither reads nor writes them afterwards.
        """
        border = self._chunk.start
        stop = start + grad_key.shape[2]
        if stop <= border:
            self._add_prefix(start, grad_key, grad_value, batch)
        elif start >= border:
            self._add_own(start - border, grad_key, grad_value, batch)
        else:
            cut = border - start
            self._add_prefix(start, grad_key[:, :, :cut], grad_value[:, :, :cut], batch)
            self._add_own(0, grad_key[:, :, cut:], grad_value[:, :, cut:], batch)

    def finish(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradients of the chunk's own keys and values, "chunk batch groups head_dim" each.

        They share nothing with the accumulator, which may return to its pool right after.
        """
        if self._own is None:
            assert self._direct is not None, "a backend adds the gradients of every visible row"
            grad_key, grad_value = (grad.to(self._key.dtype) for grad in self._direct)
            return grad_key.permute(2, 0, 1, 3), grad_value.permute(2, 0, 1, 3)
        batch, groups, _, head_dim = self._key.shape
        own = self._key.new_empty((2, self._chunk.length, batch, groups, head_dim))
        own.copy_(self._own.permute(0, 3, 1, 2, 4))
        own_key, own_value = own.unbind()
        return own_key, own_value

    def _add_prefix(self, start: int, grad_key: torch.Tensor, grad_value: torch.Tensor, batch: slice) -> None:
        assert self._accumulator is not None, "a chunk with a prefix has an accumulator"
        _add_rows(self._accumulator, start, grad_key, grad_value, batch)

    def _add_own(self, start: int, grad_key: torch.Tensor, grad_value: torch.Tensor, batch: slice) -> None:
        length = grad_key.shape[2]
        covers_chunk = length == self._chunk.length and batch == ALL_ROWS
        if self._own is None and self._direct is None and covers_chunk:
            self._direct = (grad_key, grad_value)
            return
        own = self._own if self._own is not None else self._make_own()
        _add_rows(own, start, grad_key, grad_value, batch)

    def _make_own(self) -> torch.Tensor:
        """Where the last chunk, which has no rows in the accumulator, sums several pieces."""
        batch, groups, _, head_dim = self._key.shape
        dtype = torch.promote_types(self._key.dtype, torch.float32)
        self._own = self._key.new_zeros((2, batch, groups, self._chunk.length, head_dim), dtype=dtype)
        if self._direct is not None:
            self._own[0].add_(self._direct[0])
            self._own[1].add_(self._direct[1])
        return self._own


def _add_rows(
    total: torch.Tensor, start: int, grad_key: torch.Tensor, grad_value: torch.Tensor, batch: slice
) -> None:
    """Add to rows [start, start + n) of "two batch groups rows head_dim"."""
    rows = total.narrow(3, start, grad_key.shape[2])
    total_key, total_value = (rows if batch == ALL_ROWS else rows[:, batch]).unbind()
    total_key.add_(grad_key)
    total_value.add_(grad_value)
