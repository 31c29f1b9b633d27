"""Nodes that differ are found at the start and named."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from datetime import timedelta
from multiprocessing.pool import ThreadPool
from pathlib import Path

import pytest
import torch.distributed as dist

from megatron.seq1f1b.config import parse_arguments
from megatron.seq1f1b.errors import AgreementError
from megatron.seq1f1b.training.agreement import check_agreement, differences, own_facts
from tests.config.flags import words

ROOT = Path(__file__).resolve().parents[2]
HONEST = {"host": "n1", "code": "aa", "torch": "2.13.0", "--seq-length": "64"}


def test_ranks_and_hosts_that_differ_are_named() -> None:
    other = {**HONEST, "host": "n2", "torch": "2.12.0"}
    assert differences([HONEST, HONEST]) == ""
    assert differences([HONEST, {**HONEST, "host": "n2"}]) == "", "hosts may differ"
    told = [HONEST, HONEST, other, other, {**HONEST, "host": "n3"}]
    assert differences(told) == "torch is 2.13.0 on ranks 0-1, 4 (n1, n3), but 2.12.0 on ranks 2-3 (n2)"
    assert "--seq-length is 64 on rank 0 (n1), but 128 on rank 1 (n1)" in differences(
        [HONEST, {**HONEST, "--seq-length": "128"}]
    )


def test_own_facts_name_code_packages_and_options() -> None:
    facts = own_facts(parse_arguments(words()))
    assert {"host", "code", "Python", "torch", "megatron-core", "--seq-length"} <= set(facts)
    assert "--data-path" not in facts, "paths may differ between nodes"
    assert facts == own_facts(parse_arguments(words()))
    assert facts["code"] == own_facts(parse_arguments(words("--lr 1")))["code"]


def test_files_of_one_name_and_two_plans_differ(tmp_path: Path) -> None:
    path = tmp_path / "plan.csv"
    facts = []
    for text in ("0F0.0,0F1.0,0B0.0,0B1.0", "0F1.0,0F0.0,0B0.0,0B1.0"):
        path.write_text(text)
        facts.append(own_facts(parse_arguments(words(f"--pipeline-schedule {path}"))))
    assert differences(facts).startswith("the plan of --pipeline-schedule is ")


def tell(facts: list[dict[str, str]]) -> list[BaseException | None]:
    """What each of several processes (threads, here) hears."""
    store = dist.HashStore()
    store.set_timeout(timedelta(seconds=30))

    def one(rank: int) -> BaseException | None:
        try:
            check_agreement(facts[rank], store, rank=rank, world_size=len(facts))
        except AgreementError as error:
            return error
        return None

    with ThreadPool(len(facts)) as pool:
        return pool.map(one, range(len(facts)), chunksize=1)


def test_all_processes_hear_of_one_that_lies() -> None:
    assert tell([HONEST, HONEST, HONEST]) == [None, None, None]
    heard = tell([HONEST, {**HONEST, "code": "bb"}, HONEST])
    assert len({str(error) for error in heard}) == 1
    assert "code is aa on ranks 0, 2 (n1), but bb on rank 1 (n1)" in str(heard[0])


def start(rank: int, port: int, flags: str, **environment: str) -> subprocess.Popen[str]:
    variables = {
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        **environment,
    }
    command = [
        sys.executable,
        str(ROOT / "pretrain_gpt.py"),
        *words(f"--distributed-timeout-minutes 1 {flags}"),
    ]
    return subprocess.Popen(
        command, env=variables, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )


def said_by(process: subprocess.Popen[str], *, timeout_seconds: float) -> str:
    """Its errors, once it has ended; nothing of it is left."""
    try:
        return process.communicate(timeout=timeout_seconds)[1]
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_two_processes_with_different_flags_end_with_one_message(port: int, tmp_path: Path) -> None:
    run_dir = f"--run-dir {tmp_path}"
    processes = [start(0, port, run_dir), start(1, port, f"{run_dir} --lr 2e-3")]
    told = [said_by(process, timeout_seconds=300) for process in processes]
    assert [process.returncode for process in processes] == [2, 2], told
    assert "--lr is 0.001 on rank 0" in told[0]
    assert "but 0.002 on rank 1" in told[0]
    assert "do not run the same" not in told[1], "rank 0 alone speaks"


@pytest.mark.slow
def test_a_rendezvous_nobody_holds_is_named_within_the_timeout(port: int, tmp_path: Path) -> None:
    started_at = time.monotonic()
    process = start(1, port, f"--run-dir {tmp_path}")
    told = said_by(process, timeout_seconds=400)
    assert process.returncode == 1
    assert f"127.0.0.1:{port} within 60 s" in told
    assert time.monotonic() - started_at < 300, "a minute, and a start on a busy machine"
