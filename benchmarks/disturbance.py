"""What else ran on the machine, and figures of rounds that it may have disturbed."""

from __future__ import annotations

import statistics
from pathlib import Path


class Disturbance:
    """What others took of the machine since this was made: its host, and its other processes."""

    def __init__(self) -> None:
        self._ticks = _processor_ticks()
        self._ran, self._waited = _scheduled()

    def shares(self) -> dict[str, float | None]:
        """Two shares; None where the kernel does not say.

        `stolen_processor_share` is the host's, of the processor time that the machine wanted;
        `waited_processor_share` is how long this process was ready and had no core, of its time.
        """
        ticks = [now - before for now, before in zip(_processor_ticks(), self._ticks, strict=True)]
        wanted = sum(ticks) - sum(ticks[3:5])
        ran, waited = (
            now - before for now, before in zip(_scheduled(), (self._ran, self._waited), strict=True)
        )
        return {
            "stolen_processor_share": round(ticks[7] / wanted, 4) if wanted else None,
            "waited_processor_share": round(waited / (ran + waited), 4) if ran else None,
        }


def _processor_ticks() -> list[int]:
    """user, nice, system, idle, iowait, irq, softirq, steal; empty where there is no such file."""
    stat = Path("/proc/stat")
    return [int(word) for word in stat.read_text().split()[1:9]] if stat.is_file() else []


def _scheduled() -> tuple[int, int]:
    """Nanoseconds for which this process's main thread ran, and was ready without running."""
    file = Path("/proc/self/schedstat")
    ran, waited = file.read_text().split()[:2] if file.is_file() else (0, 0)
    return int(ran), int(waited)


def median_and_spread(values: list[float]) -> tuple[float, list[float]]:
    """The median, and the middle half of the values: their first and third quartile."""
    if len(values) == 1:
        return round(values[0], 4), [round(values[0], 4)] * 2
    first, median, third = statistics.quantiles(values, n=4, method="inclusive")
    return round(median, 4), [round(first, 4), round(third, 4)]
