"""Forks that work for a process end with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = """
import os, time
from megatron.seq1f1b.planning.forked import map_in_forks

def work(number):
    print(os.getpid(), flush=True)
    time.sleep(600)

os.sched_getaffinity = lambda pid: {0, 1}
map_in_forks(work, [0, 1])
"""


def test_forks_of_a_process_that_was_killed_end() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WORK], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        forks = [parent.stdout.readline().strip() for _ in range(2)]
        parent.kill()
        # The pipe ends when the last process that could write to it has ended.
        rest, _ = parent.communicate(timeout=120)
    assert len(set(forks)) == 2
    assert rest == ""
