"""Disks that fill up: a small one of their own where this may be mounted, else limited files."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.jobs import Job


class SmallDisk:
    """A folder on a disk of its own, in memory; writes beyond its size fail with ENOSPC."""

    def __init__(self, folder: Path, kilobytes: int) -> None:
        self.folder = folder
        self._kilobytes = kilobytes

    def limit(self, running: Job) -> None:
        """Nothing to do: it has been small from the start."""

    def grow(self) -> None:
        """Room for everything."""
        options = f"remount,size={32 * self._kilobytes}k"
        subprocess.run(["mount", "-o", options, str(self.folder)], check=True)


class LimitedFiles:
    """An ordinary folder; no file of a job may grow beyond a size (EFBIG)."""

    def __init__(self, folder: Path, kilobytes: int) -> None:
        self.folder = folder
        self._bytes = kilobytes << 10

    def limit(self, running: Job) -> None:
        """From now on."""
        for process in running.processes:
            resource.prlimit(int(str(process.pid)), resource.RLIMIT_FSIZE, (self._bytes, self._bytes))

    def grow(self) -> None:
        """Nothing to do: the limit was the job's."""


@contextmanager
def small_disk(folder: Path, *, kilobytes: int, kilobytes_of_file: int) -> Iterator[SmallDisk | LimitedFiles]:
    """A folder in which the writes of a job will fail; mounting needs root."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    try:
        is_mounted = subprocess.run(mount, check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        is_mounted = False
    if not is_mounted:
        yield LimitedFiles(folder, kilobytes_of_file)
        return
    try:
        yield SmallDisk(folder, kilobytes)
    finally:
        subprocess.run(["umount", str(folder)], check=True)
