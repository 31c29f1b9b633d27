"""Which samples make a step, and which process reads which of them.

A step takes the next `global_batch_size` samples of one stream. Who reads which is a matter of
layout, which ones they are is not:

    stream    | 0 1 2 3 4 5 6 7 | 8 9 ...            global batch 8, micro batch 2, DP 2
    step      |        0        | 1
    microbatch|    0   |   1    |
    DP rank   | 0   1  | 0   1  |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from enum import Enum

import numpy as np

from megatron.seq1f1b.errors import ConfigurationError, DataError

BatchSizeAt = Callable[[int], int]
"""Samples of the step that begins after so many samples."""


class DataloaderType(Enum):
    """Order of the stream: as the dataset has it, once; or shuffled anew for every epoch."""

    SINGLE = "single"
    CYCLIC = "cyclic"

    @classmethod
    def named(cls, name: str) -> DataloaderType:
        """The type of this name, or an error that lists the names."""
        try:
            return cls(name)
        except ValueError as error:
            names = ", ".join(kind.value for kind in cls)
            raise ConfigurationError(
                f"--dataloader-type {name} does not exist; choose from {names}"
            ) from error


def microbatch_indices(
    *,
    num_samples: int,
    micro_batch_size: int,
    data_parallel_rank: int,
    data_parallel_size: int,
    global_batch_size: int | BatchSizeAt,
    consumed_samples: int,
    dataloader_type: DataloaderType,
    seed: int,
) -> Iterator[list[int]]:
    """Dataset indices of this process's microbatches, step after step.

    `single` ends before the first step that the dataset cannot fill; `cyclic` never ends. The global
    batch size may be a function of the samples consumed before the step.

    Raises:
        ConfigurationError: the global batch is not a whole number of microbatches per process.
        DataError: the dataset does not hold one global batch from `consumed_samples` on.
    """
    width = micro_batch_size * data_parallel_size
    first_size = _size_at(global_batch_size, consumed_samples)
    if width < 1 or first_size < 1 or first_size % width:
        raise ConfigurationError(
            f"--global-batch-size {first_size} is no multiple of --micro-batch-size "
            f"{micro_batch_size} times data-parallel size {data_parallel_size} = {width}"
        )
    _check_supply(num_samples, consumed_samples, first_size, dataloader_type)
    end = None if dataloader_type is DataloaderType.CYCLIC else num_samples
    return _indices(
        _Stream(num_samples=num_samples, dataloader_type=dataloader_type, seed=seed),
        steps=_steps(consumed_samples, global_batch_size, end=end),
        first_offset=data_parallel_rank * micro_batch_size,
        micro_batch_size=micro_batch_size,
        width=width,
    )


def _steps(start: int, batch_size: int | BatchSizeAt, *, end: int | None) -> Iterator[tuple[int, int]]:
    """(first sample, samples) of the steps that are whole before `end`."""
    while True:
        size = _size_at(batch_size, start)
        if end is not None and start + size > end:
            return
        yield start, size
        start += size


def _size_at(batch_size: int | BatchSizeAt, consumed_samples: int) -> int:
    return batch_size if isinstance(batch_size, int) else batch_size(consumed_samples)


def _indices(
    stream: _Stream,
    *,
    steps: Iterable[tuple[int, int]],
    first_offset: int,
    micro_batch_size: int,
    width: int,
) -> Iterator[list[int]]:
    for step_start, size in steps:
        for offset in range(first_offset, size, width):
            first = step_start + offset
            yield [stream.index(position) for position in range(first, first + micro_batch_size)]


def _check_supply(
    num_samples: int, consumed_samples: int, global_batch_size: int, kind: DataloaderType
) -> None:
    if num_samples < 1:
        raise DataError("the dataset holds no samples; give more data or a shorter --seq-length")
    if kind is DataloaderType.SINGLE and consumed_samples + global_batch_size > num_samples:
        raise DataError(
            f"the dataset holds {num_samples} samples, {consumed_samples} of them consumed, and "
            f"cannot fill a global batch of {global_batch_size}; train on fewer samples or use "
            "--dataloader-type cyclic"
        )


class _Stream:
    """Position in the endless stream of samples -> index into the dataset."""

    def __init__(self, *, num_samples: int, dataloader_type: DataloaderType, seed: int) -> None:
        self._num_samples = num_samples
        self._is_cyclic = dataloader_type is DataloaderType.CYCLIC
        self._seed = seed
        self._epoch = -1
        self._permutation = np.empty(0, dtype=np.int64)

    def index(self, position: int) -> int:
        if not self._is_cyclic:
            return position
        epoch, place = divmod(position, self._num_samples)
        if epoch != self._epoch:
            random = np.random.default_rng([self._seed, epoch])
            self._permutation = random.permutation(self._num_samples)
            self._epoch = epoch
        return int(self._permutation[place])
