"""Killed anywhere, resumed from a whole checkpoint, the loss curve is the undisturbed one."""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path

import pytest

from tests.faults.jobs import job, wait_for_step
from tests.training.runs import losses_of

STEPS = 12
SAVING = "--save save --load save --save-interval 2 --keep-latest 2"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of a run that nobody kills."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with job(f"--train-iters {STEPS} --run-dir run", folder) as running:
        assert running.wait() == [0, 0], running.output()
    return losses_of(folder / "run")


def kill_and_resume(folder: Path, *, at_step: int, ranks: tuple[int, ...], delay: float = 0.0) -> list[float]:
    """A run killed after a step and started again; its losses."""
    flags = f"--train-iters {STEPS} --run-dir run {SAVING}"
    with job(flags, folder) as running:
        wait_for_step(folder / "run", at_step, running=running)
        time.sleep(delay)
        running.kill(*ranks)
        statuses = running.wait(timeout_seconds=90)
        assert any(statuses), "the survivors of a killed process end, and not as if all were well"
        deadline = time.monotonic() + 20
        while running.left_over() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert running.left_over() == []
    with job(flags, folder) as running:
        assert running.wait() == [0, 0], running.output()
    names = {path.name for path in (folder / "save").iterdir()}
    assert names == {"iter_0000010", f"iter_{STEPS:07d}", "latest_checkpointed_iteration.txt"}
    return losses_of(folder / "run")


@pytest.mark.parametrize("ranks", [(0, 1), (1,)], ids=["all", "one"])
def test_a_killed_run_resumes_as_if_nothing_had_happened(
    ranks: tuple[int, ...], tmp_path: Path, undisturbed: list[float]
) -> None:
    assert kill_and_resume(tmp_path, at_step=5, ranks=ranks) == undisturbed


@pytest.mark.slow
def test_twenty_killed_runs(tmp_path: Path, undisturbed: list[float]) -> None:
    """At random moments, in the middle of saves too; every run goes on from a whole checkpoint."""
    draw = random.Random(20)
    for number in range(20):
        folder = tmp_path / str(number)
        folder.mkdir()
        ranks = draw.choice([(0,), (1,), (0, 1)])
        losses = kill_and_resume(
            folder, at_step=draw.randrange(2, STEPS - 1), ranks=ranks, delay=draw.random() * 0.3
        )
        assert losses == undisturbed
        shutil.rmtree(folder)
    print("20 of 20 killed runs resumed exactly")
