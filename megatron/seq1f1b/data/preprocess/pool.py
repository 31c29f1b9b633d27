"""Ordered, bounded work in processes.

A worker that dies is an error here, not a wait without end; at most a few blocks per worker exist
at a time, so memory does not grow with the input.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from megatron.seq1f1b.data.preprocess.encode import EncodedBlock, Encoder
from megatron.seq1f1b.data.preprocess.lines import LineBlock
from megatron.seq1f1b.data.stops import STOP_SIGNALS, stops_at_once, stops_deferred
from megatron.seq1f1b.errors import DataError

_BLOCKS_PER_WORKER = 3
_encoder: Encoder | None = None


def encoded_blocks(
    blocks: Iterable[LineBlock],
    encoder: Encoder,
    *,
    make_encoder: Callable[[], Encoder],
    workers: int,
) -> Generator[EncodedBlock, None, None]:
    """`blocks` encoded, in their order.

    Args:
        blocks: what to encode; read only as far as workers need it.
        encoder: the encoder of this process, which forked workers inherit as it is.
        make_encoder: makes an equal one, in workers of a system without fork.
        workers: processes; 1 works in this one.
    """
    global _encoder
    if workers == 1:
        yield from map(encoder.encode, blocks)
        return
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    can_fork = "fork" in multiprocessing.get_all_start_methods()
    _encoder = encoder
    pool = ProcessPoolExecutor(
        max_workers=workers,
        mp_context=multiprocessing.get_context("fork" if can_fork else "spawn"),
        initializer=_start_worker,
        initargs=(None if can_fork else make_encoder,),
    )
    try:
        with stops_deferred():
            yield from _in_order(pool, _read(blocks), depth=_BLOCKS_PER_WORKER * workers)
    except BrokenProcessPool as error:
        raise DataError(
            f"one of {workers} worker processes died, most likely for want of memory; "
            "use fewer --workers or a smaller --chunk-size"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        _encoder = None


def _in_order(
    pool: ProcessPoolExecutor, blocks: Iterable[LineBlock], *, depth: int
) -> Iterator[EncodedBlock]:
    pending: deque[Future[EncodedBlock]] = deque()
    for block in blocks:
        pending.append(pool.submit(_encode, block))
        if len(pending) >= depth:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _read(blocks: Iterable[LineBlock]) -> Iterator[LineBlock]:
    """The blocks; reading may wait without end, so there a stop signal counts at once."""
    iterator = iter(blocks)
    while True:
        with stops_at_once():
            block = next(iterator, None)
        if block is None:
            return
        yield block


def _start_worker(make_encoder: Callable[[], Encoder] | None) -> None:
    """Stop signals reach the whole process group; the parent alone decides what they mean."""
    global _encoder
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if make_encoder is not None:
        _encoder = make_encoder()


def _end_with_parent() -> None:
    """A parent that was killed cannot end its workers, and their queue would never tell them."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _encode(block: LineBlock) -> EncodedBlock:
    assert _encoder is not None
    return _encoder.encode(block)
