"""Microbatches of one data-parallel rank, read ahead."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from megatron.seq1f1b.data.order import BatchSizeAt, DataloaderType, microbatch_indices
from megatron.seq1f1b.data.prefetch import prefetched
from megatron.seq1f1b.data.samples import SampleDataset

Batch = dict[str, Tensor]
"""One microbatch, batch-first: tokens, labels, position_ids (int64 [b, S]), loss_mask (float32
[b, S]) and, only where documents do not attend to each other, document_starts (int64 [b, S])."""


def batches(
    dataset: SampleDataset,
    *,
    micro_batch_size: int,
    data_parallel_rank: int,
    data_parallel_size: int,
    global_batch_size: int | BatchSizeAt,
    consumed_samples: int = 0,
    num_workers: int = 2,
    dataloader_type: str = "single",
    seed: int = 1234,
) -> Iterator[Batch]:
    """Microbatches of this data-parallel rank in the order of training, on the CPU.

    The samples of a step depend on `consumed_samples` alone. Arguments are checked at once, not at
    the first `next`.

    Args:
        dataset: where samples come from.
        micro_batch_size: b, samples per microbatch.
        data_parallel_rank: which share of each step is read here.
        data_parallel_size: number of shares.
        global_batch_size: samples of one step over all shares, or of the step after so many samples.
        consumed_samples: samples that earlier steps took, of all shares.
        num_workers: threads that read ahead; 0 reads in the caller's thread.
        dataloader_type: `single` (the dataset's order, once) or `cyclic` (shuffled per epoch).
        seed: seed of the shuffle of `cyclic`.

    Raises:
        ConfigurationError: sizes that do not divide, or an unknown type of loader.
        DataError: too few samples for one step.
    """
    indices = microbatch_indices(
        num_samples=len(dataset),
        micro_batch_size=micro_batch_size,
        data_parallel_rank=data_parallel_rank,
        data_parallel_size=data_parallel_size,
        global_batch_size=global_batch_size,
        consumed_samples=consumed_samples,
        dataloader_type=DataloaderType.named(dataloader_type),
        seed=seed,
    )

    def load(sample_indices: list[int]) -> Batch:
        samples = [dataset[index] for index in sample_indices]
        return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}

    return prefetched(load, indices, num_workers=num_workers, depth=2 * max(1, num_workers))
