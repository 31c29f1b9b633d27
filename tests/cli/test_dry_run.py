"""pretrain_gpt.py --dry-run: the flags of a real run, any world size, no GPU, no other process."""

from __future__ import annotations

import json
import subprocess

import pytest

import pretrain_gpt
from tests.cli.tools import run_script
from tests.config.flags import words
from tests.planning.test_dry_run import BASE, ROPE


def run(script: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return run_script(script, *BASE, *ROPE, *flags)


def test_it_prints_json_alone_says_that_the_run_would_start_and_agrees_with_the_estimate() -> None:
    asked = ("--world-size", "64", "--global-batch-size", "128", "--format", "json")
    dry, estimated = run("pretrain_gpt.py", "--dry-run", *asked), run("tools/estimate_memory.py", *asked)
    assert dry.returncode == 0, dry.stderr
    assert "this run would start: 64 processes" in dry.stderr
    assert estimated.stderr == ""
    counted, predicted = json.loads(dry.stdout), json.loads(estimated.stdout)
    assert counted["allocator_overhead"] == predicted["allocator_overhead"] == 1.05
    for stage, other in zip(counted["stages"], predicted["stages"], strict=True):
        assert list(stage) == list(other)
        assert stage["peak_bytes"] == pytest.approx(other["peak_bytes"], rel=0.05)


@pytest.mark.slow
def test_30b_with_64k_tokens_fits_80_gb_on_64_devices_and_the_closed_form_says_so() -> None:
    done = run_script("benchmarks/dry_run.py")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert 50 < found["peak_gb"] < 80
    assert found["estimate_off_by"] < 0.05
    assert found["largest_process_gb"] * found["processors"] < 8


def refused(capsys: pytest.CaptureFixture[str], extra: str) -> str:
    """What a dry run that is refused says."""
    assert pretrain_gpt.main(words(extra)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    return said.err


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("--dry-run --world-size 7", "7 processes cannot hold tensor parallelism 1 x pipeline"),
        ("--dry-run --world-size 0", "--world-size 0 must be at least 1"),
        ("--dry-run --no-mock-data --data-path absent", "absent.idx cannot be read"),
        ("--dry-run --load absent --exit-on-missing-checkpoint", "--load absent holds no checkpoint"),
        ("--dry-run --save /proc/here", "--save /proc/here cannot be written"),
        ("--dry-run --run-dir /proc/here", "--run-dir /proc/here cannot be written"),
        ("--world-size 2", "--world-size 2 means nothing without --dry-run"),
        ("--format json", "--format json means nothing without --dry-run"),
        ("--allocator-overhead 1.1", "--allocator-overhead 1.1 means nothing without --dry-run"),
        ("--dry-run --allocator-overhead 0.9", "--allocator-overhead 0.9 must be at least 1"),
    ],
)
def test_a_run_that_would_not_start_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], extra: str, message: str
) -> None:
    assert message in refused(capsys, extra)
