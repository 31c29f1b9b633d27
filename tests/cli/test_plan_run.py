from __future__ import annotations

import json
import shlex
import subprocess

import pytest

from megatron.seq1f1b.config import parse_arguments, validate
from tests.cli.tools import run_script

SMALL = ("--model", "1.3b", "--seq-length", "16384", "--devices", "4", "--global-batch-size", "4")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run_script("tools/plan_run.py", *arguments)


def test_the_best_come_first_fit_and_can_run() -> None:
    done = run(*SMALL, "--format", "json")
    assert done.returncode == 0, done.stderr
    best = json.loads(done.stdout)["best"]
    assert 0 < len(best) <= 10
    assert [each["step_seconds"] for each in best] == sorted(each["step_seconds"] for each in best)
    for each in best:
        assert each["peak_bytes"] <= 80e9
        assert 0 < each["mfu"] < 1
        assert each["tensor_parallel"] * each["stages"] * each["data_parallel"] == 4
        words = shlex.split(each["command"])
        flags = words[words.index("pretrain_gpt.py") + 1 :]
        layout = validate(parse_arguments([*flags]), world_size=4)
        assert layout.schedule == each["schedule"]
        assert layout.num_microbatches == each["microbatches"]


def test_the_table_says_what_it_assumes() -> None:
    done = run(*SMALL, "--best", "2")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[1].split()[0] == "1."
    assert "torchrun --standalone --nproc_per_node 4 pretrain_gpt.py" in done.stdout
    assert "efficiencies, latency and overhead are assumptions" in lines[-1]


def test_every_device_gets_a_process() -> None:
    done = run(*SMALL, "--devices", "12", "--global-batch-size", "12", "--best", "3", "--format", "json")
    assert done.returncode == 0, done.stderr
    for each in json.loads(done.stdout)["best"]:
        words = shlex.split(each["command"])
        nodes, per_node = (int(words[words.index(name) + 1]) for name in ("--nnodes", "--nproc_per_node"))
        assert nodes * per_node == 12
        assert per_node % each["tensor_parallel"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*SMALL, "--memory-gb", "5"), "GB too much; use more devices"),
        ((*SMALL, "--model", "30bb"), "did you mean 30b?"),
        (
            (*SMALL, "--devices", "7", "--global-batch-size", "3"),
            "tokens; use 6 or 8 devices, or a global batch",
        ),
        ((*SMALL, "--devices", "0"), "--devices must be positive"),
        ((*SMALL, "--global-batch-size", "0"), "--global-batch-size must be positive"),
        ((*SMALL, "--device", "tpu"), "there is no device profile tpu; use one of a100, h100"),
        (("--model", "7b"), "--seq-length, --devices"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments: tuple[str, ...], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
