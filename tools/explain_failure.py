"""Say why a run ended early, from what its processes left in its folder.

    python tools/explain_failure.py runs/NAME

The kinds are: refused (the options cannot run), out of memory, not joined (the nodes did not meet),
crashed. What the other processes say after the first has gone, that their connections broke, is left out.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megatron.seq1f1b.errors import DataError
from tools.command_line import Parser, end_by_signals, run

OUT_OF_MEMORY = re.compile(
    r"OutOfMemoryError|CUDA out of memory|can't allocate memory|oom.kill|MemoryError|Cannot allocate memory",
    re.I,
)
NOT_JOINED = re.compile(r"RendezvousConnectionError|RendezvousTimeoutError|RendezvousClosedError")
OUR_WORD = re.compile(r"pretrain_gpt\.py: (rank \d+: |failed: |(?=interrupted;))?(.+)")
"""What begins with none of these was refused before processes joined."""
EXCEPTION = re.compile(
    r"^(?:\[\d+\] )?(?:\[rank\d+\]:\s*)?((?:[a-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt)\b.*)"
)
BROKEN_CONNECTION = re.compile(
    r"Connection (closed|reset|refused)|Broken pipe|NCCL.*remote|DistBackendError", re.I
)
AFTERMATH = re.compile(r"ChildFailedError|SignalException")
SIGNAL = re.compile(r"Signal (\d+) \((\w+)\)")
MAX_LENGTH = 400


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a run ended."""

    kind: str
    reason: str


def explain(run_dir: Path) -> Failure:
    """The first cause that the run's logs name; only of its last start.

    That connections broke is what the others say of a process that has gone: it counts least.
    """
    lines = list(_lines(run_dir))
    for line in lines:
        if OUT_OF_MEMORY.search(line):
            return Failure(kind="out of memory", reason=_short(line))
    words = [found for line in lines if (found := OUR_WORD.search(line))]
    for found in words:
        if found[1] is None:
            return Failure(kind="refused", reason=_short(found[2]))
    if not _logs(run_dir) and any(NOT_JOINED.search(line) for line in lines):
        return Failure(kind="not joined", reason=_rendezvous(run_dir))
    said = [f"{found[1]}{found[2]}".removeprefix("failed: ") for found in words]
    raised = [found[1] for line in lines if (found := EXCEPTION.search(line)) and not AFTERMATH.search(line)]
    signals = [found[2] for line in lines if (found := SIGNAL.search(line))]
    causes = [text for text in (*said, *raised) if not BROKEN_CONNECTION.search(text)]
    if "SIGKILL" in signals and not causes:
        causes = ["a process was killed (SIGKILL): by hand, or for want of memory"]
    ended = [f"a process was ended by {name}" for name in signals]
    reasons = [*causes, *(text for text in ended if "SIGTERM" not in text), *said, *raised, *ended]
    return Failure(kind="crashed", reason=_short(reasons[0]) if reasons else "no process said why")


def _lines(run_dir: Path) -> Iterator[str]:
    """What the processes of the last start said, those that have files of their own first."""
    for path in _logs(run_dir):
        yield from path.read_text(encoding="utf-8", errors="replace").splitlines()
    log, started = run_dir / "train.log", run_dir / "logs" / "started"
    if log.is_file():
        begin = int(started.read_text()) if started.is_file() else 0
        yield from log.read_bytes()[begin:].decode(errors="replace").splitlines()


def _logs(run_dir: Path) -> list[Path]:
    """The files of the last start's processes; none where the nodes did not meet."""
    started = run_dir / "logs" / "started"
    since = started.stat().st_mtime if started.exists() else 0.0
    logs = sorted((run_dir / "logs").glob("*/*/attempt_*/*/std*.log"))
    return [log for log in logs if log.stat().st_mtime >= since]


def _rendezvous(run_dir: Path) -> str:
    endpoint = run_dir / "logs" / "rendezvous"
    where = endpoint.read_text().strip() if endpoint.is_file() else "the first node"
    return (
        f"the nodes did not all meet at {where}: look whether that host can be reached from every node, "
        "whether the port is free and open there, and whether as many nodes were started as NODES says"
    )


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= MAX_LENGTH else text[: MAX_LENGTH - 3] + "..."


def main() -> None:
    """Read the command line, print the reason."""
    parser = Parser(__doc__)
    parser.add_argument("run_dir", type=Path, help="the folder that --run-dir named")
    run_dir: Path = parser.parse_args().run_dir
    if not run_dir.is_dir():
        raise DataError(f"there is no folder {run_dir}; name the --run-dir of a run")
    failure = explain(run_dir)
    print(f"{failure.kind}: {failure.reason}")


if __name__ == "__main__":
    end_by_signals()
    run(main)
