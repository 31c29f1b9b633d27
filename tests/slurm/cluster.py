"""A SLURM cluster of two nodes on this host: munge, a controller and two slurmd, stopped at the end."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

CONFIGURATION = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={controller}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
KillWait=10
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=2 RealMemory=1000 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=test Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why there can be no cluster here; None where there can."""
    programs = [
        name for name in ("munged", "slurmctld", "slurmd", "sbatch", "setpriv") if shutil.which(name) is None
    ]
    if programs:
        return f"needs {', '.join(programs)}: bash tests/slurm/run.sh installs them"
    return None if os.geteuid() == 0 else "needs root, to start SLURM's daemons"


class Cluster:
    """The running cluster; commands talk to it through `environment`."""

    def __init__(self, folder: Path) -> None:
        self.environment = {
            **os.environ,
            "SLURM_CONF": str(folder / "slurm.conf"),
            "GLOO_SOCKET_IFNAME": "lo",
        }
        self._folder = folder

    def ask(self, *command: str) -> str:
        """What a SLURM command prints."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True)
        return done.stdout

    def state_of(self, job: str) -> str:
        """PENDING, RUNNING, COMPLETED, FAILED, ..."""
        found = re.search(r"JobState=(\w+)", self.ask("scontrol", "show", "job", "-o", job))
        return found[1] if found else "GONE"

    def restarts_of(self, job: str) -> int:
        """How often a job went back into the queue."""
        found = re.search(r"Restarts=(\d+)", self.ask("scontrol", "show", "job", "-o", job))
        return int(found[1]) if found else 0

    def processes_on(self, node: int, job: str) -> list[psutil.Process]:
        """The training processes of a job on one of its nodes."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            if (
                any(word.endswith("pretrain_gpt.py") for word in words)
                and "torch.distributed.run" not in words
            ):
                try:
                    environment = process.environ()
                except psutil.Error:
                    continue
                if (environment.get("SLURM_JOB_ID"), environment.get("SLURM_NODEID")) == (job, str(node)):
                    found.append(process)
        return found

    def logs(self) -> str:
        """The ends of the daemons' logs, for a test that fails."""
        texts = (
            f"{path.name}:\n{path.read_text()[-2000:]}" for path in sorted(self._folder.glob("slurm*.log"))
        )
        return "\n".join(texts)


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """A cluster, of which nothing is left at the end."""
    # A short path: the names of sockets must be.
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp")))
        folder.chmod(0o755)
        (folder / "state").mkdir()
        key = folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o600)
        controller, first, second = _free_ports(3)
        (folder / "slurm.conf").write_text(
            CONFIGURATION.format(
                folder=folder, controller=controller, first=first, second=second, host=socket.gethostname()
            )
        )
        cluster = Cluster(folder)
        files = (f"--{name}={folder}/munge.{end}" for name, end in MUNGE_FILES.items())
        daemons = [["munged", "--foreground", "--force", *files], ["slurmctld", "-D", "-c"]]
        daemons += [["slurmd", "-D", "-N", name] for name in ("n1", "n2")]
        for command in daemons:
            stack.enter_context(_daemon(command, cluster.environment))
            if command[0] == "munged":
                wait_until(lambda: (folder / "munge.socket").exists(), what="munged", seconds=30)
        stack.callback(_end_jobs, cluster)
        wait_until(
            lambda: cluster.ask("sinfo", "--noheader", "--format", "%t %D").split() == ["idle", "2"],
            what=f"two idle nodes\n{cluster.logs()}",
            seconds=60,
        )
        yield cluster


MUNGE_FILES = {
    "key-file": "key",
    "socket": "socket",
    "pid-file": "pid",
    "log-file": "log",
    "seed-file": "seed",
}


@contextmanager
def _daemon(command: list[str], environment: dict[str, str]) -> Iterator[None]:
    # However the tests end, the daemons end with them.
    bound = ["setpriv", "--pdeathsig", "TERM", *command]
    with subprocess.Popen(
        bound, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as daemon:
        try:
            yield
        finally:
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()


def _end_jobs(cluster: Cluster) -> None:
    cluster.ask("scancel", "--user", "root")
    wait_until(lambda: not cluster.ask("squeue", "--noheader"), what="the queue to be empty", seconds=60)


def wait_until(is_so: Callable[[], bool], *, what: str, seconds: float) -> None:
    """Ask again and again; fail with what was waited for."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if is_so():
                return
        except subprocess.CalledProcessError:  # the controller does not answer yet
            pass
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
