"""Device profiles: shipped, measured on the machine at hand, and refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megatron.seq1f1b.errors import ConfigurationError
from megatron.seq1f1b.planning.devices import SHIPPED, load_device
from tests.cli.tools import run_script

ROOT = Path(__file__).resolve().parents[2]
A100 = json.loads((SHIPPED / "a100.json").read_text())


def written(folder: Path, **changes: object) -> str:
    path = folder / "device.json"
    kept = {name: value for name, value in {**A100, **changes}.items() if value is not None}
    path.write_text(json.dumps(kept))
    return str(path)


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.json")), ids=lambda path: path.stem)
def test_a_shipped_profile_says_that_it_is_from_a_data_sheet(path: Path) -> None:
    assert "data sheet" in load_device(path.stem).source


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latency_seconds": None, "name": None}, "lacks latency_seconds, name; see examples/devices"),
        ({"colour": "green"}, "has unknown colour"),
        ({"peak_flops_per_second": 0}, "peak_flops_per_second 0 is impossible"),
        ({"latency_seconds": -1}, "latency_seconds -1 is impossible"),
        ({"memory_bytes": "80 GB"}, "memory_bytes '80 GB' is impossible"),
        ({"devices_per_node": 7.5}, "devices_per_node 7.5 is impossible"),
    ],
)
def test_a_profile_that_cannot_be_is_refused_by_field(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load_device(written(tmp_path, **changes))


def test_an_unknown_device_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"use one of a100, h100, or the path of a \.json file"):
        load_device("b200")
    with pytest.raises(ConfigurationError, match=r"there is no device profile .*absent\.json"):
        load_device(str(tmp_path / "absent.json"))


@pytest.mark.slow
def test_one_command_measures_this_machine_and_the_tools_read_it(tmp_path: Path) -> None:
    profile = tmp_path / "here.json"
    small = ("--device", "cpu", "--hidden", "64", "--seq-length", "256", "--rounds", "1")
    run("benchmarks/device_profile.py", "--output", str(profile), *small)
    device = load_device(str(profile))
    assert device.source.startswith("measured 20")
    assert 0 < device.matrix_efficiency <= 1
    model = ("--model", "1.3b", "--seq-length", "8192", "--device", str(profile))
    layout = ("--schedule", "seq1f1b", "--stages", "4", "--microbatches", "4", "--chunks", "4")
    assert device.source in run("tools/show_schedule.py", *layout, *model)
    found = json.loads(
        run("tools/plan_run.py", *model, "--devices", "8", "--memory-gb", "80", "--format", "json")
    )
    assert found["source"] == device.source
    assert found["best"]


def run(script: str, *arguments: str) -> str:
    """What a command printed."""
    done = run_script(script, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout
