"""What holds for all tests: slow ones run with --all; gpu and slurm ones where the machine allows."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: on tensors this small threads only wait


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="also run tests marked slow")


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_auto_num_workers() -> int:
    """What `-n auto` means: a test runs up to four processes, which wait for each other half of the time."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, cores // 2))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reasons = {
        "slow": None if config.getoption("--all") else "slow: run with --all",
        "gpu": None if _has_gpu() else "needs a CUDA device",
        "slurm": None if shutil.which("slurmctld") else "needs SLURM's slurmctld and slurmd",
    }
    for item in items:
        for marker, reason in reasons.items():
            if reason is not None and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


def _has_gpu() -> bool:
    """Asks the driver, not torch: most tests need no torch, and importing it takes seconds."""
    if shutil.which("nvidia-smi") is None:
        return False
    return subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False).returncode == 0
