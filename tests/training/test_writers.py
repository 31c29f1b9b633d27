"""TensorBoard and W&B beside metrics.jsonl: the same numbers, through resumes, and never silently absent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from megatron.seq1f1b.config import parse_arguments
from megatron.seq1f1b.errors import ConfigurationError
from megatron.seq1f1b.training.reporting import checks
from megatron.seq1f1b.training.reporting.writers import JsonLines, WeightsAndBiases
from tests.config.flags import words
from tests.harness import run_distributed
from tests.training.runs import rows_of, train_each
from tests.training.test_metrics import STEP

ROOT = Path(__file__).resolve().parents[2]
PP2 = "--global-batch-size 4 --pipeline-model-parallel-size 2 --pipe-sp-splits 2"
CHARTS = {
    "lm loss": "lm_loss",
    "learning-rate": "learning_rate",
    "grad-norm": "grad_norm",
    "params-norm": "param_norm",
    "loss-scale": "loss_scale",
    "batch-size": "batch_size",
    "iteration-time": "step_seconds",
    "data-wait-time": "data_wait_seconds",
    "tokens-per-second": "tokens_per_second",
    "throughput": "tflops_per_device",
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_has_what_metrics_jsonl_has(tmp_path: Path) -> None:
    """Events are read back; steps that a resumed run trains again are shown once."""
    pytest.importorskip("tensorboard", reason="the extra `tensorboard` is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    save, run, board = (str(tmp_path / name) for name in ("save", "run", "board"))
    flags = f"{PP2} --lr-decay-iters 4 --log-params-norm --eval-interval 2 --eval-iters 1"
    flags += f" --tensorboard-dir {board}"
    runs = (
        (f"{flags} --train-iters 3 --save {save} --save-interval 2", run),
        (f"{flags} --train-iters 4 --load {save} --ckpt-step 2", run),
    )
    run_distributed(train_each, 2, runs)
    events = EventAccumulator(board)
    events.Reload()
    rows = rows_of(run)
    for chart, name in CHARTS.items():
        points = events.Scalars(chart)
        values = [row[name] for row in rows]
        assert [point.step for point in points] == [1, 2, 3, 4], chart
        assert [point.value for point in points] == pytest.approx(values, rel=1e-6), chart
    validated = {row["iteration"]: row["validation_loss"] for row in rows if row["iteration"] % 2 == 0}
    found = {point.step: point.value for point in events.Scalars("lm loss validation")}
    assert found == pytest.approx(validated, rel=1e-6)
    stages = [name for name in events.Tags()["scalars"] if name.startswith("memory/")]
    assert stages == ["memory/stage 0", "memory/stage 1"]
    assert "mfu" not in events.Tags()["scalars"], "what was not measured has no chart"


def options(extra: str) -> object:
    return parse_arguments(words(extra)).logging


def test_wandb_is_told_the_configuration_and_every_due_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []

    class Run:
        def log(self, values: dict[str, float], step: int) -> None:
            told.append((step, values["lm loss"]))

        def finish(self) -> None:
            told.append("finish")

    def init(**arguments: object) -> Run:
        told.append(arguments)
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    asked = options("--wandb-project project --wandb-exp-name name --tensorboard-log-interval 2")
    for iteration in (0, 2):
        writer = WeightsAndBiases(asked, tmp_path, configuration={"options": {}}, iteration=iteration)
        for step in (1, 2, 3):
            writer.write(replace(STEP, iteration=iteration + step))
        writer.close()
    first, *_, second = (each for each in told if isinstance(each, dict))
    assert (first["project"], first["name"], first["dir"]) == ("project", "name", str(tmp_path))
    assert first["config"] == {"options": {}}
    assert first["id"] == second["id"], "a run that resumes goes on in its dashboard"
    assert [each for each in told if not isinstance(each, dict)] == [(2, 2.0), "finish", (4, 2.0), "finish"]


@pytest.mark.skipif(find_spec("wandb") is None, reason="the extra `wandb` is not installed")
def test_wandb_offline_keeps_a_run_in_files(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "pretrain_gpt.py"), *words("--pipeline-model-parallel-size 1")]
    done = subprocess.run(
        [*command, "--train-iters", "2", "--run-dir", str(tmp_path / "run"), "--wandb-project", "test"],
        env={**os.environ, "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))


@pytest.mark.parametrize("package", ["tensorboard", "wandb"])
def test_a_missing_package_is_refused_with_its_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B leaves a folder of its name where it ran, which is no package."""
    folder = types.SimpleNamespace(origin=None)
    for found in (None, folder):
        monkeypatch.setattr(checks, "find_spec", lambda name, found=found: found)
        flag = {"tensorboard": "--tensorboard-dir", "wandb": "--wandb-project"}[package]
        with pytest.raises(ConfigurationError, match=f"{flag} x needs the package {package}, which is not"):
            checks.check_writers(options(f"{flag} x"))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("--wandb-exp-name x", "--wandb-exp-name x means nothing without --wandb-project"),
        ("--wandb-save-dir x", "means nothing without --wandb-project"),
        ("--tensorboard-log-interval 2", "means nothing without --tensorboard-dir or --wandb-project"),
        ("--tensorboard-queue-size 2", "means nothing without --tensorboard-dir"),
    ],
)
def test_options_of_writers_that_are_not_there(extra: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        checks.check_writers(options(extra))
    checks.check_writers(options("--wandb-project= --wandb-exp-name="))


def test_metrics_are_json() -> None:
    assert json.loads(STEP.to_json())["peak_memory_bytes"] == [2**30, 2**31]


def test_two_runs_cannot_write_to_one_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = JsonLines(tmp_path)
    first.write(STEP)
    with pytest.raises(ConfigurationError, match=r"another run is writing to .* give this one a --run-dir"):
        JsonLines(tmp_path, iteration=1)
    first.close()
    for iteration, num_kept, said in (
        (STEP.iteration, 1, ""),
        (0, 0, "held 1 steps of an earlier run, which"),
    ):
        rows = JsonLines(tmp_path, iteration=iteration)
        assert len(rows.kept_rows) == num_kept
        assert said in capsys.readouterr().out
        rows.close()
