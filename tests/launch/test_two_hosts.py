"""Two hosts on this one: each node of a run has a network, a host name and a folder of runs of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.launch.test_hosts import ROOT, environment

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.geteuid() != 0 or not all(map(shutil.which, ("ip", "unshare", "hostname"))),
        reason="needs root, ip, unshare and hostname, to make network namespaces",
    ),
]
ADDRESSES = ("10.231.0.1", "10.231.0.2")
PORT = "29500"  # of a network of our own


class Hosts:
    """node1 and node2, joined by a cable."""

    def __init__(self, prefix: str, folder: Path) -> None:
        self._prefix = prefix
        self._folder = folder

    def start(self, rank: int, code: Path = ROOT, **variables: str) -> subprocess.Popen[str]:
        """exp.sh on one of them."""
        given = {"NODES": "2", "GPUS_PER_NODE": "2", "MASTER_ADDR": "node1", "MASTER_PORT": PORT}
        given |= {"NODE_RANK": str(rank), "GLOO_SOCKET_IFNAME": "eth0", **variables}
        name = f"node{rank + 1}"
        command = f"hostname {name} && exec bash '{code}/exp.sh'"
        return subprocess.Popen(
            ["ip", "netns", "exec", f"{self._prefix}{name}", "unshare", "--uts", "bash", "-c", command],
            env={**environment(self._folder, **given), "RUN_DIR": str(self.run_dir(rank))},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run_dir(self, rank: int) -> Path:
        """Not shared."""
        return self._folder / f"runs of node{rank + 1}"


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    prefix = f"seq1f1b-{os.getpid()}-"
    with ExitStack() as stack:
        for name in ("node1", "node2"):
            run(f"ip netns add {prefix}{name}")
            stack.callback(run, f"ip netns delete {prefix}{name}")
            files = Path("/etc/netns") / f"{prefix}{name}"  # what that host sees in /etc
            files.mkdir(parents=True)
            stack.callback(shutil.rmtree, files)
            lines = ["127.0.0.1 localhost", *(f"{ADDRESSES[rank]} node{rank + 1}" for rank in (0, 1))]
            (files / "hosts").write_text("\n".join(lines) + "\n")
        run(f"ip link add eth0 netns {prefix}node1 type veth peer name eth0 netns {prefix}node2")
        for name, address in zip(("node1", "node2"), ADDRESSES, strict=True):
            inside = f"ip -netns {prefix}{name}"
            run(f"{inside} address add {address}/24 dev eth0")
            for device in ("lo", "eth0"):
                run(f"{inside} link set {device} up")
        yield Hosts(prefix, tmp_path)


def run(command: str) -> None:
    subprocess.run(command.split(), check=True)


def told(*nodes: subprocess.Popen[str]) -> list[str]:
    """What nodes said, when all have ended."""
    return [node.communicate(timeout=500)[0] for node in nodes]


def test_two_hosts_train_together(hosts: Hosts) -> None:
    nodes = [hosts.start(rank) for rank in (0, 1)]
    first, second = told(*nodes)
    assert [node.returncode for node in nodes] == [0, 0], first + second
    assert "trained  2 steps" in first
    assert "the first node has what was measured" in second
    for rank in (0, 1):
        (logs,) = hosts.run_dir(rank).glob("logs/node*")
        assert logs.name == f"node{rank}-node{rank + 1}"


def test_hosts_with_different_code_are_named(hosts: Hosts, tmp_path: Path) -> None:
    code = tmp_path / "older code"
    code.mkdir()
    for name in ("exp.sh", "pretrain_gpt.py", "setup.py", "requirements.txt"):
        shutil.copy(ROOT / name, code)
    for name in ("tools", "megatron"):
        shutil.copytree(ROOT / name, code / name, ignore=shutil.ignore_patterns("__pycache__"))
    with (code / "megatron/seq1f1b/chunk.py").open("a") as file:
        file.write("# changed\n")
    nodes = [hosts.start(0), hosts.start(1, code)]
    for text in told(*nodes):
        assert "the processes do not run the same: code is" in text, text
        assert "on ranks 0-1 (node1), but" in text
        assert "on ranks 2-3 (node2)" in text
    assert [node.returncode for node in nodes] == [1, 1]


@pytest.mark.parametrize("address", ["10.231.0.9", "no-such-host", "node2"])
def test_a_meeting_that_cannot_be_is_named_in_time(hosts: Hosts, address: str) -> None:
    """Nobody has that address, nothing has that name, and nobody holds the meeting there."""
    started_at = time.monotonic()
    node = hosts.start(1, MASTER_ADDR=address, RENDEZVOUS_SECONDS="10")
    (text,) = told(node)
    assert node.returncode == 1
    assert f"not joined: the nodes did not all meet at {address}:{PORT} (waited 10 s)" in text
    assert time.monotonic() - started_at < 300, "most of it is the start"


def test_a_node_that_never_comes_is_not_waited_for_for_ever(hosts: Hosts) -> None:
    node = hosts.start(0, RENDEZVOUS_SECONDS="10")
    (text,) = told(node)
    assert node.returncode == 1
    assert f"not joined: the nodes did not all meet at node1:{PORT} (waited 10 s)" in text
