from __future__ import annotations

import json
import shlex
import subprocess

from tests.cli.tools import run_script

FLAGS = shlex.split(
    "--num-layers 64 --hidden-size 6144 --num-attention-heads 64 --position-embedding-type rope "
    "--seq-length 65536 --micro-batch-size 1 --global-batch-size 16 --train-iters 1 --lr 1e-4 --bf16 "
    "--mock-data --tokenizer-type NullTokenizer --vocab-size 50256 --untie-embeddings-and-output-weights "
    "--pipeline-model-parallel-size 8 --tensor-model-parallel-size 8 --sequence-parallel "
    "--use-distributed-optimizer --pipe-sp-splits 4"
)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run_script("tools/estimate_memory.py", *arguments)


def test_30b_with_64k_tokens_fits_80_gb_on_64_devices() -> None:
    done = run("--world-size", "64", "--format", "json", *FLAGS)
    assert done.returncode == 0, done.stderr
    stages = json.loads(done.stdout)["stages"]
    assert [stage["stage"] for stage in stages] == list(range(8))
    assert 40e9 < max(stage["peak_bytes"] for stage in stages) < 80e9


def test_whole_sequences_do_not() -> None:
    done = run("--world-size", "64", *FLAGS, "--pipe-sp-splits", "1")
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-2]) > 80.0


def test_a_run_that_cannot_start_is_refused_in_one_line() -> None:
    done = run("--world-size", "60", *FLAGS)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "60 processes cannot hold tensor parallelism 8" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_without_a_world_size_it_is_one_model() -> None:
    done = run(*FLAGS, "--format", "json")
    one = run("--world-size", "64", *FLAGS, "--format", "json")
    assert done.returncode == 0, done.stderr
    assert done.stdout == one.stdout
