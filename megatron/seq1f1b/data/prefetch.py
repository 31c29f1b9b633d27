"""Items computed ahead by background threads, handed out in order.

Threads rather than worker processes: reading is memory-mapped and light, and a process forked
after a communication library started its threads may hang.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Key = TypeVar("Key")
Item = TypeVar("Item")


def prefetched(
    load: Callable[[Key], Item], keys: Iterable[Key], *, num_workers: int, depth: int
) -> Generator[Item, None, None]:
    """`load(key)` for each key in order, up to `depth` of them ahead of the caller.

    An exception of `load` is raised where its item would have been handed out. With `num_workers`
    0 everything happens in the caller's thread.
    """
    if num_workers == 0:
        yield from map(load, keys)
        return
    remaining = iter(keys)
    pool = ThreadPoolExecutor(max_workers=num_workers, thread_name_prefix="seq1f1b-data")
    try:
        ahead: deque[Future[Item]] = deque()
        ahead.extend(pool.submit(load, key) for key in islice(remaining, depth))
        while ahead:
            item = ahead.popleft().result()
            ahead.extend(pool.submit(load, key) for key in islice(remaining, 1))
            yield item
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
