"""Live bytes follow a storage that is emptied and filled again, as a recomputed norm's output is."""

from __future__ import annotations

import torch

from megatron.seq1f1b.planning.live_bytes import Category, LiveBytes


def test_a_storage_counts_with_the_size_it_has() -> None:
    sizes = []
    with LiveBytes(lambda tensor: False) as live:
        tensor = torch.empty(1000)
        for size in (4000, 0, 4000):
            tensor.untyped_storage().resize_(size)
            sizes.append(live.live[Category.ACTIVATIONS])
        del tensor
        sizes.append(live.live[Category.ACTIVATIONS])
    assert sizes == [4000, 0, 4000, 0]
    assert max(live.by_label.values()) == 4000
    assert "resize_" not in vars(torch.UntypedStorage), "what counted is gone"
