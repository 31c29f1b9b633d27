"""Killed anywhere, resumed from a whole checkpoint, the loss curve is the undisturbed one."""

from __future__ import annotations

import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.disks import small_disk
from tests.faults.jobs import Job, job, wait_for_step, wait_until
from tests.training.runs import losses_of

STEPS, INTERVAL, KEPT = 24, 4, 2
SAVING = f"--save save --load save --save-interval {INTERVAL} --keep-latest {KEPT}"
RANKS = ((0,), (1,), (0, 1))


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What happens to a run, and when."""

    kind: str
    """`step`: killed after a step; `save`: in the middle of a save; `disk`: the disk is full."""
    ranks: tuple[int, ...] = ()
    at_step: int = 0
    delay_seconds: float = 0.0
    flags: str = ""

    def happen(self, folder: Path, running: Job) -> None:
        """Wait for the moment, and kill."""
        if self.kind == "save":
            saves = folder / "save"
            wait_until(lambda: any(saves.glob(f".partial-iter_*{self.at_step}")), running=running)
        else:
            wait_for_step(folder / "run", self.at_step, running=running)
        time.sleep(self.delay_seconds)
        running.send(signal.SIGKILL, *self.ranks)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of a run that nobody kills."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with job(f"--train-iters {STEPS} --run-dir run", folder) as running:
        assert running.wait() == [0, 0], running.output()
    return losses_of(folder / "run")


def disturb(folder: Path, fault: Fault) -> bool:
    """A run that a fault ends, whole; whether the fault tore a checkpoint."""
    with job(f"--train-iters {STEPS} --run-dir run {SAVING} {fault.flags}", folder) as running:
        fault.happen(folder, running)
        return ends_without_orphans(running, folder)


def ends_without_orphans(running: Job, folder: Path) -> bool:
    """Check that a disturbed run ended, and not as if all were well; whether it left a torn save."""
    statuses = running.wait(timeout_seconds=90)
    assert any(statuses), f"{statuses}: a disturbed run says so\n{running.output()}"
    deadline = time.monotonic() + 20
    while running.left_over() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert running.left_over() == []
    return any((folder / "save").glob(".partial-*"))


def resume(folder: Path, flags: str = "") -> list[float]:
    """Start a run again; the losses of all its steps. It goes on from a whole checkpoint if it has one."""
    latest = folder / "save" / "latest_checkpointed_iteration.txt"
    saved = int(latest.read_text()) if latest.exists() else 0
    with job(f"--train-iters {STEPS} --run-dir run {SAVING} {flags}", folder) as running:
        assert running.wait() == [0, 0], running.output()
        output = running.output()
    assert (f"iter_{saved:07d}, step {saved}" if saved else "starting from initial weights") in output
    names = {path.name for path in (folder / "save").iterdir()}
    kept = {f"iter_{iteration:07d}" for iteration in (STEPS - INTERVAL, STEPS)}
    assert names == {*kept, "latest_checkpointed_iteration.txt"}, "nothing stale is left"
    return losses_of(folder / "run")


def fill_the_disk(folder: Path, flags: str = "") -> list[float]:
    """A run whose disk is full in the middle of its third save, started again when there is room."""
    # A checkpoint takes 640 KB, its largest file 160 KB.
    with small_disk(folder / "save", kilobytes=1600, kilobytes_of_file=140) as disk:
        with job(f"--train-iters {STEPS} --run-dir run {SAVING} {flags}", folder) as running:
            wait_until(lambda: (disk.folder / "iter_0000004").exists(), running=running)
            disk.limit(running)
            is_torn = ends_without_orphans(running, folder)
            output = running.output()
        assert "cannot write checkpoint" in output, output
        assert "No space left on device" in output or "File too large" in output, output
        assert not is_torn, "a save that fails removes what there is of it"
        disk.grow()
        return resume(folder, flags)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind="step", ranks=(1,), at_step=6),
        Fault(kind="save", ranks=(0, 1), at_step=8, flags="--async-save"),
    ],
    ids=["one rank after a step", "all ranks in an asynchronous save"],
)
def test_a_killed_run_resumes_as_if_nothing_had_happened(
    fault: Fault, tmp_path: Path, undisturbed: list[float]
) -> None:
    disturb(tmp_path, fault)
    assert resume(tmp_path, fault.flags) == undisturbed


@pytest.mark.slow
def test_twenty_disturbed_runs(tmp_path: Path, undisturbed: list[float]) -> None:
    """A random rank, all ranks, the middle of a save, a full disk: each goes on from a whole checkpoint."""
    draw = random.Random(20)
    num_torn = num_exact = 0
    for number in range(20):
        folder = tmp_path / str(number)
        folder.mkdir()
        flags = "--async-save" if number % 8 >= 4 else ""
        kind = ("step", "save", "save", "disk")[number % 4]
        if kind == "disk":
            losses = fill_the_disk(folder, flags)
        else:
            fault = Fault(
                kind=kind,
                ranks=draw.choice(RANKS),
                at_step=draw.randrange(2, STEPS // 2) if kind == "step" else draw.choice((4, 8, 12, 16)),
                delay_seconds=draw.random() * (0.1 if kind == "step" else 0.03),
                flags=flags,
            )
            num_torn += disturb(folder, fault)
            losses = resume(folder, flags)
        assert losses == undisturbed, f"run {number}"
        num_exact += 1
    print(f"{num_exact}/20 disturbed runs resumed exactly; {num_torn} of 15 kills tore a checkpoint")
    assert num_torn > 0, "no kill came in the middle of a save: the test has lost its aim"
