"""What is known of one rank when a distributed function is over, and how a failure is told."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

OUTPUT_LINES_SHOWN = 40


class RankState(enum.Enum):
    """How a rank ended."""

    RETURNED = "returned"
    RAISED = "raised"
    DIED = "died"
    STUCK = "was still running and was killed"


@dataclass(frozen=True, kw_only=True)
class RankReport:
    """One rank's end.

    `value` is what the function returned, `error` the exception it raised where that could be
    pickled, `traceback` the text of it, `ended_at` when that was (monotonic clock), `output`
    everything the rank printed (for a rank that was still running also the stack of each thread).
    """

    rank: int
    state: RankState
    value: object = None
    error: BaseException | None = None
    traceback: str = ""
    ended_at: float = 0.0
    exit_code: int | None = None
    output: str = ""

    def describe(self) -> str:
        """The rank's part of a failure message."""
        code = f" with exit code {self.exit_code}" if self.state is RankState.DIED else ""
        heading = f"--- rank {self.rank} {self.state.value}{code}"
        lines = self.output.rstrip().splitlines()
        shown = lines[-OUTPUT_LINES_SHOWN:]
        if len(shown) < len(lines):
            shown.insert(0, f"... {len(lines) - len(shown)} lines before this")
        return "\n".join([heading, *filter(None, [self.traceback.rstrip()]), *shown])


def in_order_of_blame(reports: Sequence[RankReport]) -> list[RankReport]:
    """The ranks that failed, the likely culprit first.

    A rank that died broke its neighbours' connections; of those that raised, the first did.
    """
    severity = [RankState.DIED, RankState.RAISED, RankState.STUCK]
    failed = [report for report in reports if report.state in severity]
    return sorted(failed, key=lambda report: (severity.index(report.state), report.ended_at))


def failure_message(name: str, reports: Sequence[RankReport], *, timed_out_after: float | None) -> str:
    """Which rank did what: the headline, then each rank that failed, the likely culprit first."""
    failed = in_order_of_blame(reports)
    summary = ", ".join(f"rank {report.rank} {report.state.value}" for report in failed)
    limit = f" within {timed_out_after:g} s" if timed_out_after is not None else ""
    headline = f"{name} on {len(reports)} ranks did not finish{limit}: {summary}"
    return "\n".join([headline, *(report.describe() for report in failed)])
