"""Whether all processes run the same: code, packages and options; asked before anything else is shared.

Nodes that differ do not fail by themselves: they hang in a collective that some never call, or train
two models into one. Each process tells its facts through the store it was started with, rank 0 compares
them, and all hear its verdict.
"""

from __future__ import annotations

import hashlib
import json
import platform
import socket
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from itertools import pairwise
from pathlib import Path

import torch
from torch.distributed import Store

from megatron.seq1f1b.config import Config
from megatron.seq1f1b.errors import AgreementError
from megatron.seq1f1b.schedule import is_plan_file

PACKAGES = ("torch", "megatron-core", "numpy", "transformer-engine", "flash-attn")
OPTIONS = ("model", "experts", "parallel", "schedule", "training", "optimizer")
"""Sections that must be equal; paths and what is logged where may differ between nodes."""
MAX_HOSTS = 4

Facts = Mapping[str, str]
_HOST = "host"
_VERDICT = "seq1f1b/verdict"


def own_facts(config: Config) -> Facts:
    """What this process runs, by name."""
    facts = {_HOST: socket.gethostname(), "code": _fingerprint(), "Python": platform.python_version()}
    for name in PACKAGES:
        try:
            facts[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            facts[name] = "(none)"
    if torch.cuda.is_available():
        facts["NCCL"] = ".".join(map(str, torch.cuda.nccl.version()))
    for section, options in asdict(config).items():
        if section in OPTIONS:
            facts |= {"--" + name.replace("_", "-"): str(value) for name, value in options.items()}
    schedule = config.schedule.pipeline_schedule
    if schedule is not None and is_plan_file(schedule):
        facts["the plan of --pipeline-schedule"] = _digest(Path(schedule).read_bytes())
    return facts


def check_agreement(facts: Facts, store: Store, *, rank: int, world_size: int) -> None:
    """Compare what all processes run; returns at once where there is one.

    Args:
        facts: of this process, as `own_facts` has them.
        store: shared by all processes; its timeout counts.
        rank: of this process.
        world_size: how many processes tell.

    Raises:
        AgreementError: on every process, with what differs and where.
    """
    if rank == 0:
        told = [facts] + [json.loads(store.get(_key(other))) for other in range(1, world_size)]
        verdict = differences(told)
        store.set(_VERDICT, verdict)
    else:
        store.set(_key(rank), json.dumps(facts))
        verdict = store.get(_VERDICT).decode()
        store.set(_key(rank, "heard"), "")
    if verdict:
        if rank == 0:  # whose process may hold the store: it leaves last
            store.wait([_key(other, "heard") for other in range(1, world_size)])
        raise AgreementError(
            f"the processes do not run the same: {verdict}; start every node from the same code and "
            "environment (best one shared folder) with the same flags"
        )


def differences(told: Sequence[Facts]) -> str:
    """What differs between ranks, and where each value is; empty where nothing does."""
    names = dict.fromkeys(name for facts in told for name in facts if name != _HOST)
    return "; ".join(
        _difference(name, told) for name in names if len({facts.get(name, "(none)") for facts in told}) > 1
    )


def _difference(name: str, told: Sequence[Facts]) -> str:
    ranks_of = defaultdict(list)
    for rank, facts in enumerate(told):
        ranks_of[facts.get(name, "(none)")].append(rank)
    places = [f"{value} on {_where(ranks, told)}" for value, ranks in ranks_of.items()]
    return f"{name} is {', but '.join(places)}"


def _where(ranks: Sequence[int], told: Sequence[Facts]) -> str:
    """For instance `ranks 0-7 (n1)`."""
    starts = [ranks[0], *(later for earlier, later in pairwise(ranks) if later != earlier + 1)]
    ends = [*(earlier for earlier, later in pairwise(ranks) if later != earlier + 1), ranks[-1]]
    spans = [str(low) if low == high else f"{low}-{high}" for low, high in zip(starts, ends, strict=True)]
    hosts = list(dict.fromkeys(told[rank][_HOST] for rank in ranks))
    more = f" and {len(hosts) - MAX_HOSTS} more" if len(hosts) > MAX_HOSTS else ""
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(spans)} ({', '.join(hosts[:MAX_HOSTS])}{more})"


def _fingerprint() -> str:
    """Of this package's sources as they are, committed or not."""
    folder = Path(__file__).resolve().parents[1]
    return _digest(
        b"".join(
            path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes()
            for path in sorted(folder.rglob("*.py"))
        )
    )


def _digest(data: bytes) -> str:
    """A few characters that are equal where the data is."""
    return hashlib.sha256(data).hexdigest()[:10]


def _key(rank: int, what: str = "facts") -> str:
    return f"seq1f1b/{what}/{rank}"
