"""Several nodes without SLURM: hosts of a file (by a make-believe ssh), or exp.sh started on every node."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SSH = """#!/bin/bash
# Like ssh: another environment, and a shell that reads the command again.
host=$1
shift
[ "$host" != broken ] || { echo "ssh: connect to host $host port 22: No route to host" >&2; exit 255; }
exec env -i PATH="$PATH" HOME="$HOME" bash -c "$*"
"""
ON_A_NODE = {"MASTER_ADDR": "n1", "NODES": "2", "NODE_RANK": "0"}
SMALL = {"NUM_LAYERS": "4", "HIDDEN_SIZE": "64", "SEQ_LENGTH": "128", "GLOBAL_BATCH": "4", "TRAIN_ITER": "2"}


def environment(folder: Path, **variables: str) -> dict[str, str]:
    ssh = folder / "bin" / "ssh"
    ssh.parent.mkdir(exist_ok=True)
    ssh.write_text(SSH)
    ssh.chmod(0o755)
    found = {**os.environ, "PYTHON": sys.executable, **SMALL, "GLOO_SOCKET_IFNAME": "lo", **variables}
    found |= {"PATH": f"{ssh.parent}:{os.environ['PATH']}", "SAMPLE_DIR": str(folder / "sample")}
    return {**found, "SAMPLE_MEGABYTES": "2", "RUN_DIR": str(folder / "a run")}


def exp(folder: Path, *flags: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(ROOT / "exp.sh"), *flags],
        env=environment(folder, **variables),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=500,
    )


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.mark.slow
def test_two_hosts_of_a_file_train_together(tmp_path: Path) -> None:
    (tmp_path / "my hosts").write_text("alpha slots=2 # the first\n\nbeta slots=2\n")
    done = exp(tmp_path, HOSTFILE="my hosts", MASTER_ADDR="127.0.0.1")
    assert done.returncode == 0, done.stdout
    assert "2 x 2 processes" in done.stdout
    assert "trained  2 steps" in done.stdout
    nodes = sorted(path.name for path in (tmp_path / "a run" / "logs").glob("node*"))
    assert [name.partition("-")[0] for name in nodes] == ["node0", "node1"]


@pytest.mark.slow
def test_a_host_that_cannot_be_reached_ends_the_others(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("alpha slots=2\nbroken slots=2\n")
    started_at = time.monotonic()
    done = exp(tmp_path, HOSTFILE="hosts", MASTER_ADDR="127.0.0.1")
    assert done.returncode == 1
    assert "No route to host" in done.stdout
    assert "broken ended with status 255: ending the others" in done.stdout
    assert time.monotonic() - started_at < 250, "not the 300 s that nodes wait for each other"


@pytest.mark.slow
def test_exp_started_on_every_node(tmp_path: Path) -> None:
    assert exp(tmp_path, TRAIN_ITER="1").returncode == 0, "the sample is there"
    given = {"NODES": "2", "GPUS_PER_NODE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    nodes = [
        subprocess.Popen(
            ["bash", str(ROOT / "exp.sh")],
            env=environment(tmp_path, **given, NODE_RANK=rank),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in ("0", "1")
    ]
    told = [node.communicate(timeout=500)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], told


@pytest.mark.slow
def test_a_rendezvous_that_nobody_holds_is_named(tmp_path: Path) -> None:
    given = {"NODES": "2", "GPUS_PER_NODE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    done = exp(tmp_path, **given, NODE_RANK="1", RENDEZVOUS_SECONDS="5")
    assert done.returncode == 1
    assert "not joined: the nodes did not all meet at 127.0.0.1:1 (waited 5 s)" in done.stdout


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"HOSTFILE": "missing"}, "cannot be read; it holds one host per line, as in: node1 slots=8"),
        ({**ON_A_NODE, "GPUS_PER_NODE": "3"}, "6 processes cannot hold"),
        ({"MODEL": "8b"}, "there is no model '8b'"),
        ({"RECOMPUTE": "some"}, "use none, selective or full"),
        ({"PRECISION": "int8"}, "use bf16, fp16 or fp32"),
        ({"SAVE_INTERVAL": "5"}, "needs a folder: SAVE=checkpoints"),
    ],
)
def test_what_cannot_run_is_refused_with_the_variable(
    variables: dict[str, str], message: str, tmp_path: Path
) -> None:
    # Data that is never looked at: what is wrong comes first.
    given = {
        "DATA_PATH": "text",
        "VOCAB_FILE": "v",
        "MERGE_FILE": "m",
        **variables,
    }
    done = exp(tmp_path, **given)
    assert done.returncode == 2, done.stdout
    assert message in done.stdout


GIVEN = [
    ({"NODES": "2"}, "HOSTFILE=hosts.txt .* on every node MASTER_ADDR=first-node NODE_RANK=0"),
    ({"NODE_RANK": "1"}, "where they meet is missing, as in MASTER_ADDR=node1 NODES=2"),
    ({"MASTER_ADDR": "n1"}, r"how many is missing, as in NODES=2 \(NODES=1 for this one alone\)"),
    ({"MASTER_ADDR": "n1", "NODES": "2"}, "NODE_RANK=0 on n1, NODE_RANK=1, 2, ... on the others"),
    ({**ON_A_NODE, "NODE_RANK": "2"}, "NODE_RANK=2 must be below NODES=2"),
    ({**ON_A_NODE, "PP_SP": "1 4"}, "all of them see, as in RUN_DIR=/shared/sweep"),
    ({"PP_SIZE": "two"}, "PP_SIZE=two is not a whole number above 0, as in PP_SIZE=2"),
    ({"PP_SP": "1 0"}, "PP_SP=0 is not a whole number above 0"),
    ({"PROFILE": "-1"}, "PROFILE=-1 is not a whole number"),
    ({"RUN_MINUTES": "0", "PP_SP": "1 4"}, "RUN_MINUTES=0 is not a number of minutes, as in RUN_MINUTES=30"),
    ({"RUN_MINUTES": "30"}, "no variable is a list; .* --exit-duration-in-mins 30"),
    ({"DRY_RUN": "yes"}, "DRY_RUN=yes is neither 0 nor 1, as in DRY_RUN=1"),
    ({"RUN_DIR": "/dev/null"}, "RUN_DIR=/dev/null is a file; name a folder, as in RUN_DIR="),
    ({"FINETUNE": "1"}, "LOAD is missing, as in LOAD=checkpoints/llama3-8b"),
    ({"TIME_LIMIT": "1:00"}, "where sbatch is, give NODES as well, as in NODES=2"),
    ({"CONTAINER": "image.sqsh"}, "CONTAINER=image.sqsh is for SLURM jobs"),
]


@pytest.mark.parametrize(("variables", "message"), GIVEN)
def test_what_is_missing_or_means_nothing_is_refused_at_once(variables: dict[str, str], message: str) -> None:
    assert re.search(message, check_given(variables)), check_given(variables)


@pytest.mark.parametrize(
    "variables",
    [
        {"NODES": "2", "TIME_LIMIT": "1:00", "DRY_RUN": "1"},
        {"PP_SP": "1 4", "PROFILE": "0 3", "RUN_MINUTES": "0.5"},
        {"MASTER_ADDR": "n1", "NODES": "1"},
        {**ON_A_NODE, "PP_SP": "1 4", "RUN_DIR": "/shared/sweep"},
    ],
)
def test_what_means_something_is_not_refused(variables: dict[str, str]) -> None:
    assert check_given(variables) == ""


def check_given(variables: dict[str, str]) -> str:
    """What is said of the variables before anything else is done, on a machine without SLURM."""
    script = f'''
        set -euo pipefail
        source "{ROOT}/tools/launch/settings.sh"
        source "{ROOT}/tools/launch/given.sh"
        PLACE=machine
        [ -z "${{MASTER_ADDR:-}}" ] || PLACE=node
        check_given
    '''
    done = subprocess.run(
        ["bash", "-c", script],
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == (2 if done.stderr else 0)
    return done.stderr
