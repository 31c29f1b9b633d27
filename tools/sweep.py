"""Run exp.sh with every combination of lists of variables, and compare the runs.

    SCHEDULE="1f1b seq1f1b" PP_SP="1 4" bash exp.sh       # exp.sh calls this tool for lists

A run that fails is recorded with its reason, and the sweep goes on; combinations that mean nothing are
skipped and said. After every run results.csv, results.md and results.svg are written anew. Started again
with the same folder, it keeps the runs that have ended and makes the others.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import shlex
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megatron.seq1f1b.config import parse_arguments
from megatron.seq1f1b.errors import ConfigurationError, DataError
from megatron.seq1f1b.schedule import check_schedule, is_plan_file
from megatron.seq1f1b.training.banner import predicted_bubble
from megatron.seq1f1b.training.prepare import prepare
from tools.command_line import Parser, run
from tools.explain_failure import explain
from tools.summarize_run import WARMUP_STEPS, read_metrics
from tools.sweep_report import Result, write_report

EXP = Path(__file__).resolve().parent.parent / "exp.sh"
GRACE_SECONDS = 30.0
"""Between asking a run to end and killing it."""
REFUSED = 2
"""exp.sh's exit status for what cannot run."""

Settings = dict[str, str]


class Sweep:
    """The runs of one folder."""

    def __init__(
        self, output: Path, *, varied: Settings, flags: Sequence[str], minutes: float | None
    ) -> None:
        self._output = output
        self._flags = flags
        self._minutes = minutes
        self._combinations = list(combinations(varied))
        first, *others = self._combinations
        self._changing = [name for name in varied if any(each[name] != first[name] for each in others)]

    def run(self) -> list[Result]:
        """Every combination, one after another; the report is written after each."""
        results: list[Result] = []
        for number, settings in enumerate(self._combinations, start=1):
            print(f"== run {number}/{len(self._combinations)}: {self._title(settings)}", flush=True)
            results.append(self._result(settings, self._folder(number, settings), results))
            print(f"   {results[-1].in_words()}", flush=True)
            write_report(self._output, results, changing=self._changing, flags=self._flags)
        return results

    def show(self) -> None:
        """The commands and memory estimates of all combinations."""
        shown: list[Result] = []
        for number, settings in enumerate(self._combinations, start=1):
            print(f"== run {number}/{len(self._combinations)}: {self._title(settings)}", flush=True)
            reason = why_meaningless(settings, shown)
            if reason:
                print(f"skipped: {reason}", flush=True)
            else:
                self._start(settings, self._folder(number, settings), stream=None).wait()
            shown.append(Result(settings=settings, folder="", status="skipped" if reason else "ok"))

    def _title(self, settings: Settings) -> str:
        return " ".join(f"{name}={settings[name]}" for name in self._changing)

    def _folder(self, number: int, settings: Settings) -> Path:
        words = [re.sub(r"[^\w.-]+", "-", Path(settings[name]).name) for name in self._changing]
        return self._output / "-".join([f"{number:03}", *words])

    def _result(self, settings: Settings, folder: Path, earlier: Sequence[Result]) -> Result:
        ended = folder / "result.json"
        if ended.is_file():
            return Result(**json.loads(ended.read_text()))
        reason = why_meaningless(settings, earlier)
        if reason:
            return Result(settings=settings, folder=folder.name, status="skipped", reason=reason)
        result = self._measured(settings, folder)
        ended.write_text(result.to_json() + "\n")
        return result

    def _measured(self, settings: Settings, folder: Path) -> Result:
        """One run, from start to its numbers."""
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "output.log"
        with log.open("w") as stream:
            process = self._start(settings, folder, stream=stream)
            try:
                status = process.wait(None if self._minutes is None else 60 * self._minutes)
            except subprocess.TimeoutExpired:
                reason = f"not done after RUN_MINUTES={self._minutes:g}; its last word: {_last_line(log)}"
                return Result(settings=settings, folder=folder.name, status="timed out", reason=reason)
            finally:
                end(process)
        if status == REFUSED:
            reason = log.read_text().rpartition("refused: ")[2].strip()
            return Result(settings=settings, folder=folder.name, status="refused", reason=reason)
        if status != 0:
            failure = explain(folder)
            return Result(settings=settings, folder=folder.name, status=failure.kind, reason=failure.reason)
        return Result(settings=settings, folder=folder.name, status="ok", **numbers_of(folder))

    def _start(self, settings: Settings, folder: Path, *, stream: Any) -> subprocess.Popen[bytes]:
        environment = {**os.environ, **settings, "RUN_DIR": str(folder.resolve()), "IN_SWEEP": "1"}
        command = ["bash", str(EXP), *self._flags]
        return subprocess.Popen(
            command,
            env=environment,
            stdout=stream,
            stderr=stream,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )


def combinations(varied: Settings) -> Iterator[Settings]:
    """Every combination of the lists, the last variable changing fastest."""
    lists = [values.split("," if name == "DATA_PATH" else None) for name, values in varied.items()]
    for values in itertools.product(*lists):
        yield dict(zip(varied, values, strict=True))


def why_meaningless(settings: Settings, earlier: Sequence[Result]) -> str:
    """Why a combination is not run; empty for one that means something."""
    name, chunks = settings.get("SCHEDULE", "seq1f1b"), settings.get("PP_SP")
    if not is_plan_file(name):
        enough = 4  # stages and microbatches that every schedule accepts
        try:
            check_schedule(
                name,
                stages=enough,
                microbatches=enough,
                chunks=int(chunks or 1),
                virtual_stages=int(settings.get("VPP_SIZE", "1")),
            )
        except ConfigurationError as error:
            return str(error)
    if chunks == "1":
        alike = [each for each in earlier if _without_strategy(each.settings) == _without_strategy(settings)]
        if alike:
            return f"one chunk is not cut, so PP_SP_STR={settings['PP_SP_STR']} is the run above"
    return ""


def _without_strategy(settings: Settings) -> Settings:
    return {name: value for name, value in settings.items() if name != "PP_SP_STR"}


def numbers_of(folder: Path) -> dict[str, Any]:
    """What a run's metrics say, medians without the first steps, and its plan's bubble."""
    if not (folder / "metrics.jsonl").is_file():
        raise DataError(f"{folder} has no metrics.jsonl: RUN_DIR must be a folder that all nodes see")
    metrics = read_metrics(folder)
    timed = metrics[WARMUP_STEPS:] or metrics
    measured = [row["bubble_fraction"] for row in timed if row.get("bubble_fraction") is not None]
    words = shlex.split((folder / "command.txt").read_text())
    flags = words[words.index("pretrain_gpt.py") + 1 :]
    layout = json.loads((folder / "config.json").read_text())["layout"]
    return {
        "tokens_per_second": statistics.median(row["tokens_per_second"] for row in timed),
        "tflops_per_device": statistics.median(row["tflops_per_device"] for row in timed),
        "step_seconds": statistics.median(row["step_seconds"] for row in timed),
        "peak_memory_bytes": metrics[-1]["peak_memory_bytes"],
        "predicted_bubble": predicted_bubble(
            prepare(parse_arguments(flags), world_size=layout["world_size"])
        ),
        "measured_bubble": statistics.median(measured) if measured else None,
        "last_loss": metrics[-1]["lm_loss"],
    }


def end(process: subprocess.Popen[bytes]) -> None:
    """End a run and all it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, number)
            try:
                process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                continue


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "none"


def _variable(text: str) -> tuple[str, str]:
    name, _, values = text.partition("=")
    if not name or not values.split():
        raise argparse.ArgumentTypeError(f"{text!r} names no variable and its values, as in PP_SP='1 4'")
    return name, values


def _minutes(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        raise ConfigurationError(f"RUN_MINUTES={text} is not a number of minutes, as in 30") from None


def _on_termination(number: int, frame: FrameType | None) -> None:
    """Whoever ends the sweep ends its run too, through `finally`; it has no result and is made again."""
    raise SystemExit(128 + number)


def main() -> int:
    """Run the sweep; 1 where a run failed."""
    parser = Parser(__doc__)
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder of runs and results"
    )
    parser.add_argument(
        "--vary",
        action="append",
        required=True,
        type=_variable,
        metavar="NAME=VALUES",
        help="a variable of exp.sh and its values",
    )
    parser.add_argument("flags", nargs="*", help="after --, flags of pretrain_gpt.py")
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _on_termination)
    sweep = Sweep(
        arguments.output,
        varied=dict(arguments.vary),
        flags=arguments.flags,
        minutes=_minutes(os.environ.get("RUN_MINUTES")),
    )
    if os.environ.get("DRY_RUN") == "1":
        sweep.show()
        return 0
    results = sweep.run()
    print((arguments.output / "results.md").read_text())
    print(f"== see results.csv, results.md and results.svg in {arguments.output}")
    return 1 if any(result.status not in ("ok", "skipped") for result in results) else 0


if __name__ == "__main__":
    run(main)
