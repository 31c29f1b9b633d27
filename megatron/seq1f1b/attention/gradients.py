"""Where a chunk's backward puts the gradients of keys and values.

A backend computes them for whatever rows its kernel calls cover; this object knows which of those
rows belong to the prefix (they accumulate, for the chunks that own them) and which to the chunk
itself (they leave through autograd, together with what later chunks left there).
"""

from __future__ import annotations

import torch

from megatron.seq1f1b.chunk import Chunk

ALL_ROWS = slice(None)

KeyAndValue = tuple[torch.Tensor, torch.Tensor]


class KVGradients:
    """Collects dK and dV of one chunk's backward.

    Args:
        chunk: whose backward this is.
        key: "batch groups rows head_dim", for batch, groups, head_dim, dtype and device.
        accumulators: "batch groups rows head_dim" for keys and for values, the sums so far of rows
            [0, rows), which cover the chunk unless it is the last one; None if it is the only one.
    """

    def __init__(self, *, chunk: Chunk, key: torch.Tensor, accumulators: KeyAndValue | None) -> None:
        self._chunk = chunk
        self._key = key
        self._accumulators = accumulators
        self._direct: KeyAndValue | None = None
        self._own: KeyAndValue | None = None
        if accumulators is not None and accumulators[0].shape[2] >= chunk.stop:
            self._own = _rows(accumulators, chunk.start, chunk.length)

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
            self._add_prefix(start, (grad_key, grad_value), batch)
        elif start >= border:
            self._add_own(start - border, (grad_key, grad_value), batch)
        else:
            both, cut = (grad_key, grad_value), border - start
            self._add_prefix(start, _rows(both, 0, cut), batch)
            self._add_own(0, _rows(both, cut, stop - border), batch)

    def finish(self) -> KeyAndValue:
        """Gradients of the chunk's own keys and values, "chunk batch groups head_dim" each.

        They share nothing with the accumulators, which may return to their pool right after.
        """
        dtype = self._key.dtype
        if self._own is None:
            assert self._direct is not None, "a backend adds the gradients of every visible row"
            key, value = self._direct
        elif self._direct is None:
            key, value = (own.clone() for own in self._own)
        else:
            key, value = (torch.add(*pair) for pair in zip(self._own, self._direct, strict=True))
        if key.dtype is not dtype:
            key, value = key.to(dtype), value.to(dtype)
        return key.permute(2, 0, 1, 3), value.permute(2, 0, 1, 3)

    def _add_prefix(self, start: int, gradients: KeyAndValue, batch: slice) -> None:
        assert self._accumulators is not None, "a chunk with a prefix has accumulators"
        _add(self._accumulators, start, gradients, batch)

    def _add_own(self, start: int, gradients: KeyAndValue, batch: slice) -> None:
        covers_chunk = gradients[0].shape[2] == self._chunk.length and batch == ALL_ROWS
        if covers_chunk and self._direct is None:
            self._direct = gradients
            return
        if self._own is None:
            self._own = self._make_own()
        _add(self._own, start, gradients, batch)

    def _make_own(self) -> KeyAndValue:
        """Where the last chunk, which has no rows in the accumulators, sums several pieces."""
        batch, groups, _, head_dim = self._key.shape
        shape = (2, batch, groups, self._chunk.length, head_dim)
        dtype = torch.promote_types(self._key.dtype, torch.float32)
        key, value = self._key.new_zeros(shape, dtype=dtype).unbind()
        return key, value


def _rows(both: KeyAndValue, start: int, length: int) -> KeyAndValue:
    """Rows [start, start + length) of "batch groups rows head_dim" tensors."""
    return both[0].narrow(2, start, length), both[1].narrow(2, start, length)


def _add(total: KeyAndValue, start: int, gradients: KeyAndValue, batch: slice) -> None:
    """Add to rows [start, start + n) of `total`."""
    for into, gradient in zip(_rows(total, start, gradients[0].shape[2]), gradients, strict=True):
        (into if batch == ALL_ROWS else into[batch]).add_(gradient)
