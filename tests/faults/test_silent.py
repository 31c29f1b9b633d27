"""A process that is stopped, not dead: the others end in time, and say whom they waited for."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import time
from pathlib import Path

import pytest
import torch.distributed as dist

from megatron.seq1f1b.config import Config, Layout
from tests.faults.jobs import job, wait_for_step
from tests.harness import DistributedError, RankState, run_distributed

NAMES = r"(?P<action>\d+[FBIW]\d+\.\d+) on stage (?P<stage>\d+): waited for \S+ from rank (?P<peer>\d+)"
"""The action a process was in, and the peer it waited for."""


def train_with_a_silent_stage(flags: str, run_dir: str, minutes: float) -> None:
    """A run whose second stage stops itself in the steady phase of its third step."""
    from megatron.seq1f1b.runtime.program import MegatronProgram
    from tests.training import runs

    backward, calls = MegatronProgram.backward, []

    def stop(self: MegatronProgram, *args: object) -> object:
        calls.append(args)
        if dist.get_rank() == 1 and len(calls) == 10:
            os.kill(os.getpid(), signal.SIGSTOP)
        return backward(self, *args)  # type: ignore[arg-type]

    MegatronProgram.backward = stop  # type: ignore[method-assign, assignment]

    join = runs.join

    def join_for_moments(config: Config, layout: Layout) -> None:
        parallel = dataclasses.replace(config.parallel, distributed_timeout_minutes=minutes)
        join(dataclasses.replace(config, parallel=parallel), layout)

    runs.join = join_for_moments
    runs.train(flags, run_dir)


def test_a_stopped_stage_is_named_with_the_action_that_waited_for_it(tmp_path: Path) -> None:
    flags = "--pipeline-model-parallel-size 2 --pipe-sp-splits 2 --global-batch-size 4 --train-iters 4"
    started_at = time.monotonic()
    with pytest.raises(DistributedError) as failure:
        run_distributed(train_with_a_silent_stage, 2, flags, str(tmp_path / "run"), 0.05)
    assert time.monotonic() - started_at < 60
    waiting, stopped = failure.value.reports
    assert stopped.state is RankState.STUCK
    named = re.search(NAMES, str(waiting.error))
    assert named is not None, str(waiting.error)
    assert (named["stage"], named["peer"]) == ("0", "1")
    assert re.match(r"iteration 2: 0[FB]", str(waiting.error)), "said once"


@pytest.mark.slow
def test_a_job_of_which_one_process_is_stopped_ends_in_time(tmp_path: Path) -> None:
    """The command itself, with its own timeout of a minute."""
    flags = "--train-iters 100000 --run-dir run --distributed-timeout-minutes 1"
    with job(flags, tmp_path) as running:
        wait_for_step(tmp_path / "run", 5, running=running)
        running.send(signal.SIGSTOP, 1)
        stopped_at = time.monotonic()
        running.processes[0].join(150)
        seconds = time.monotonic() - stopped_at
        output = running.output()
    assert running.processes[0].exitcode == 1, output
    assert 55 < seconds < 120, f"{seconds:.0f} s"
    assert re.search(
        rf"pretrain_gpt.py: rank 0: iteration \d+: (?:{NAMES}|lost a peer in (?!_step))", output
    ), output
    said = next(line for line in output.splitlines() if line.startswith("pretrain_gpt.py: rank 0"))
    print(f"ended after {seconds:.0f} s: {said}")
