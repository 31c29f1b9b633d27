"""Runs that stop early save, say why, and leave the rest to whoever started them."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import torch.distributed as dist

from tests.harness import run_distributed
from tests.training.runs import losses_of, train, train_each

BASE = "--global-batch-size 4 --pipeline-model-parallel-size 2 --pipe-sp-splits 2 --lr-decay-iters 4"


def train_and_signal(flags: str, run_dir: str) -> None:
    """A run in which rank 1 alone is told to stop, before the first step."""
    from megatron.seq1f1b.training.stop import StopRequests

    make = StopRequests.__init__

    def make_and_signal(self: StopRequests, *args: object, **options: object) -> None:
        make(self, *args, **options)  # type: ignore[arg-type]
        if dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGUSR1)

    StopRequests.__init__ = make_and_signal  # type: ignore[method-assign]
    train(flags, run_dir)


def test_exit_interval_saves_and_is_not_requeued(tmp_path: Path) -> None:
    run, save = str(tmp_path / "run"), str(tmp_path / "save")
    run_distributed(train, 2, f"{BASE} --exit-interval 3 --save {save}", run)
    stopped = json.loads((tmp_path / "run" / "stopped.json").read_text())
    assert stopped == {"reason": "interval", "iteration": 3, "requeue": False}
    assert (tmp_path / "save" / "latest_checkpointed_iteration.txt").read_text() == "3"


def test_a_signal_to_one_rank_stops_all_after_the_step(tmp_path: Path) -> None:
    run, straight, save = (str(tmp_path / name) for name in ("run", "straight", "save"))
    run_distributed(train_and_signal, 2, f"{BASE} --exit-signal-handler --save {save}", run)
    stopped = json.loads((tmp_path / "run" / "stopped.json").read_text())
    assert stopped == {"reason": "signal", "iteration": 1, "requeue": True}
    run_distributed(train_each, 2, ((f"{BASE} --load {save}", run), (BASE, straight)))
    assert losses_of(run) == losses_of(straight)
    assert not (tmp_path / "run" / "stopped.json").exists(), "a run that ended by itself was not stopped"
