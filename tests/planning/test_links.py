"""Measured links take the place of a device profile's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from megatron.seq1f1b.errors import ConfigurationError
from megatron.seq1f1b.planning.devices import load_device
from megatron.seq1f1b.planning.links import read_links
from megatron.seq1f1b.runtime.link_times import LinkTimes, time_links
from tests.harness import run_distributed


def write(path: Path, *links: tuple[bool, float, float]) -> Path:
    names = ("is_inside_node", "latency_seconds", "bytes_per_second")
    path.write_text(json.dumps({"links": [dict(zip(names, link, strict=True)) for link in links]}))
    return path


def test_the_slowest_link_of_each_kind_counts(tmp_path: Path) -> None:
    path = write(tmp_path / "links.json", (True, 2e-6, 3e11), (True, 3e-6, 2e11), (False, 9e-6, 1e10))
    device = read_links(path).on(load_device("a100"))
    assert device.node_bytes_per_second == 2e11
    assert device.network_bytes_per_second == 1e10
    assert device.latency_seconds == 9e-6
    assert "links measured, links.json" in device.source


def test_what_was_not_measured_stays_the_profiles(tmp_path: Path) -> None:
    device = read_links(write(tmp_path / "links.json", (True, 2e-6, 3e11))).on(load_device("a100"))
    assert device.network_bytes_per_second == load_device("a100").network_bytes_per_second


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", "is no file of tools/measure_links.py"),
        ('{"links": [{}]}', "KeyError 'is_inside_node'"),
        ('{"links": []}', "holds no links"),
        (
            '{"links": [{"is_inside_node": true, "latency_seconds": 1e-5, "bytes_per_second": 0}]}',
            "not positive",
        ),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "links.json"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        read_links(path)
    with pytest.raises(ConfigurationError, match="cannot read links"):
        read_links(tmp_path / "nowhere.json")


def test_bandwidth_is_of_the_bytes_beyond_the_smallest_message() -> None:
    times = LinkTimes(source=0, destination=1, seconds={0: 1e-3, 1000: 2e-3, 4000: 5e-3})
    assert times.latency_seconds == 1e-3
    assert times.bytes_per_second == pytest.approx(1e6)


def time_three_stages() -> list[LinkTimes]:
    assert dist.group.WORLD is not None
    return time_links(dist.group.WORLD, num_bytes=(4, 40_000), repeats=3, device=torch.device("cpu"))


def test_every_stage_but_the_last_times_its_link_to_the_next() -> None:
    found = run_distributed(time_three_stages, 3)
    assert [[(link.source, link.destination) for link in links] for links in found] == [
        [(0, 1)],
        [(1, 2)],
        [],
    ]
    for link in (*found[0], *found[1]):
        assert link.seconds.keys() == {4, 40_000}
        assert link.bytes_per_second > 0 < link.latency_seconds
