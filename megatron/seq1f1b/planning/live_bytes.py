"""Counts live bytes by storage, whatever views there are of it, while tensors come and go.

Works on fake tensors, whose storages have sizes and no memory: that is how a stage of 30 billion
parameters is counted on a laptop. A storage counts from the operation that makes it until the last
reference to it is gone, for the category that was current when it was made or that it was moved to,
and with the size it has: a recomputed norm's output is emptied and filled again.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Category(str, Enum):
    """What bytes are counted for; parameters and what follows from them are not counted here."""

    ACTIVATIONS = "activations"
    LOGITS = "logits"
    COMMUNICATION = "communication"
    RECEIVED = "received"
    KV_CACHE = "kv_cache"
    DKV = "dkv"


POOLED = (Category.RECEIVED, Category.KV_CACHE, Category.DKV)
"""Buffers that go back to a pool and stay: a later step holds all of them from its start."""


@dataclass(slots=True)
class _Counted:
    """A storage that is alive."""

    reference: weakref.ref[Any]
    category: Category
    size: int


class LiveBytes(TorchDispatchMode):
    """The live bytes of every category, and the most that was alive at once.

    Args:
        is_logits: tells a storage of the vocabulary's width by its tensor.
    """

    def __init__(self, is_logits: Callable[[torch.Tensor], bool]) -> None:
        super().__init__()
        self.live: Counter[Category] = Counter()
        self.at_peak: Counter[Category] = Counter()
        self.peak_label = ""
        self.by_label: dict[str, int] = {}
        """The most that was alive at once under every label, without what is pooled."""
        self._label = ""
        self._peak_bytes = -1
        self._is_logits = is_logits
        self._category = Category.ACTIVATIONS
        self._known: dict[int, _Counted] = {}
        self._ignored: set[int] = set()

    def __enter__(self) -> LiveBytes:  # noqa: PYI034 - typing's Self is of Python 3.11
        resize = torch.UntypedStorage.resize_

        def resize_(storage: torch.UntypedStorage, size: int) -> None:
            resize(storage, size)
            self._count_again(storage)

        torch.UntypedStorage.resize_ = resize_  # type: ignore[method-assign, assignment]
        super().__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        super().__exit__(*raised)
        del torch.UntypedStorage.resize_  # which leaves the inherited one

    def ignore(self, tensor: torch.Tensor) -> None:
        """Never count this tensor's storage: it was there before, and stays."""
        self._ignored.add(tensor.untyped_storage()._cdata)

    def begin(self, label: str) -> None:
        """Say what is going on from now on, for instance an action."""
        self._label = label
        self._note(self._total())

    @contextlib.contextmanager
    def making(self, category: Category) -> Iterator[None]:
        """What is made inside counts for `category`."""
        before, self._category = self._category, category
        try:
            yield
        finally:
            self._category = before

    def move(self, tensor: torch.Tensor, category: Category) -> None:
        """Count the tensor's storage for another category from now on."""
        counted = self._known.get(tensor.untyped_storage()._cdata)
        if counted is not None:
            self.live[counted.category] -= counted.size
            self.live[category] += counted.size
            counted.category = category

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                if storage._cdata not in self._known and storage._cdata not in self._ignored:
                    self._count(leaf, storage)
        return result

    def _count(self, tensor: torch.Tensor, storage: torch.UntypedStorage) -> None:
        key, size, category = storage._cdata, storage.nbytes(), self._category
        if category is Category.ACTIVATIONS and self._is_logits(tensor):
            category = Category.LOGITS

        def forget(_: object) -> None:
            counted = self._known.pop(key)
            self.live[counted.category] -= counted.size

        self._known[key] = _Counted(weakref.ref(storage, forget), category, size)
        self.live[category] += size
        self._note(self._total())

    def _count_again(self, storage: torch.UntypedStorage) -> None:
        counted = self._known.get(storage._cdata)
        if counted is not None:
            self.live[counted.category] += storage.nbytes() - counted.size
            counted.size = storage.nbytes()
            self._note(self._total())

    def _total(self) -> int:
        return sum(self.live.values()) - sum(self.live[pooled] for pooled in POOLED)

    def _note(self, total: int) -> None:
        self.by_label[self._label] = max(total, self.by_label.get(self._label, 0))
        if total > self._peak_bytes:
            self._peak_bytes = total
            self.at_peak = self.live.copy()
            self.peak_label = self._label
