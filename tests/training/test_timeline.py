"""Timelines of real steps: every action of the plan, in its order, aligned, without changing the run."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from megatron.seq1f1b.config import parse_arguments, validate
from megatron.seq1f1b.errors import ConfigurationError
from megatron.seq1f1b.runtime.recorder import DeviceClock
from megatron.seq1f1b.schedule import add_communication, make_plan
from tests.config.flags import words
from tests.harness import run_distributed
from tests.training.runs import losses_of, rows_of, train_each

Event = dict[str, object]

BASE = "--global-batch-size 4 --pipeline-model-parallel-size 2 --train-iters 5 --lr 1e-2"
RUNS = {
    "seq1f1b": ("--pipe-sp-splits 2 --timeline 2", 2, 1),
    "seq1f1b-zb": ("--pipeline-schedule seq1f1b-zb --pipe-sp-splits 2 --timeline 1", 2, 1),
    "interleaved": (
        "--pipeline-schedule interleaved --num-virtual-stages-per-pipeline-rank 2 --timeline 1",
        1,
        2,
    ),
    "1f1b": ("--pipeline-schedule 1f1b --timeline 1", 1, 1),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of every schedule, and one of seq1f1b without a timeline."""
    folder = tmp_path_factory.mktemp("runs")
    flags = {name: extra for name, (extra, _, _) in RUNS.items()} | {"plain": "--pipe-sp-splits 2"}
    run_distributed(train_each, 2, tuple((f"{BASE} {extra}", str(folder / n)) for n, extra in flags.items()))
    return folder


def events_of(run: Path) -> list[Event]:
    """The trace's events of what was measured."""
    events = json.loads((run / "timeline.json").read_text())["traceEvents"]
    return [event for event in events if event["pid"] == 0 and event["ph"] != "M"]


@pytest.mark.parametrize("name", RUNS)
def test_every_stage_has_the_actions_of_its_plan_in_order(name: str, runs: Path) -> None:
    flags, chunks, virtual = RUNS[name]
    plan = make_plan(name, stages=2, microbatches=4, chunks=chunks, virtual_stages=virtual)
    computed: dict[object, list[Event]] = defaultdict(list)
    for event in events_of(runs / name):
        if str(event["cat"]).startswith("compute"):
            computed[event["tid"]].append(event)
    num_steps = int(flags.split()[-1])
    for stage, actions in enumerate(plan.actions):
        events = sorted(computed[stage], key=lambda event: event["ts"])  # type: ignore[arg-type,return-value]
        assert [event["name"] for event in events] == num_steps * [str(action) for action in actions]
        ends = [float(event["ts"]) + float(event["dur"]) for event in events]  # type: ignore[arg-type]
        assert all(
            end <= float(after["ts"])  # type: ignore[arg-type]
            for end, after in zip(ends, events[1:], strict=False)
        )


def test_messages_and_waits_are_told_apart(runs: Path) -> None:
    """All sends and receives by their texts, a wait before what needs a message, arrows forward in time."""
    plan = add_communication(make_plan("seq1f1b", stages=2, microbatches=4, chunks=2))
    events = events_of(runs / "seq1f1b")
    names = {
        category: [e["name"] for e in events if str(e["cat"]).startswith(category)]
        for category in ("send", "receive", "wait")
    }
    texts = [str(action) for actions in plan.actions for action in actions]
    assert set(names["send"]) == {text for text in texts if "SEND" in text}
    assert set(names["receive"]) == {text for text in texts if "RECV" in text}
    assert set(names["wait"]) == {f"wait 1F{m}.{c}" for m in range(4) for c in range(2)} | {
        f"wait 0B{m}.{c}" for m in range(4) for c in range(2)
    }
    sent = {event["id"]: event["ts"] for event in events if event["ph"] == "s"}
    taken = {event["id"]: event["ts"] for event in events if event["ph"] == "f"}
    assert len(sent) == 2 * 16, "two steps of eight messages each way"
    assert sent.keys() == taken.keys()
    assert all(sent[arrow] < taken[arrow] for arrow in sent)


def test_metrics_have_the_bubble_of_the_timed_steps_alone(runs: Path) -> None:
    bubbles = [row["bubble_fraction"] for row in rows_of(runs / "seq1f1b")]
    assert [bubble is not None for bubble in bubbles] == [False, False, True, True, False]
    assert all(0.0 < float(str(bubble)) < 1.0 for bubble in bubbles if bubble is not None)


def test_the_picture_shows_the_measured_and_both_simulated_steps(runs: Path) -> None:
    texts = [
        each.text or "" for each in ET.fromstring((runs / "seq1f1b" / "timeline.svg").read_text()).iter()
    ]
    assert sum(text.startswith("bubble") for text in texts) == 3
    assert texts.count("1F3.1") == 3, "each panel has the action, by the name it has in the plan"


def test_a_timeline_changes_nothing(runs: Path) -> None:
    assert losses_of(runs / "seq1f1b") == losses_of(runs / "plain")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--timeline 3", "the run has 4; use at most 2, or more steps"),
        ("--timeline 1 --train-iters 2", "train more steps, or leave it out"),
        ("--timeline 0", "--timeline 0 must be at least 1"),
        ("--parity-check 5", "use at most 4"),
        ("--parity-tolerance 1e-3", "means nothing without --parity-check"),
        ("--parity-check 1 --parity-tolerance 0", "--parity-tolerance 0.0 must be more than 0"),
    ],
)
def test_what_the_steps_do_not_suffice_for_is_refused(flags: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        validate(parse_arguments(words(flags)), world_size=2)


class FakeEvent:
    """A CUDA event on a device whose clock counts milliseconds from somewhere else."""

    milliseconds = 5000.0

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing
        self.at = 0.0
        self.is_synchronized = False

    def record(self) -> None:
        FakeEvent.milliseconds += 250.0
        self.at = FakeEvent.milliseconds

    def synchronize(self) -> None:
        self.is_synchronized = True

    def elapsed_time(self, other: FakeEvent) -> float:
        assert other.is_synchronized, "asked before the device has come to it"
        return other.at - self.at


def test_device_events_are_put_on_the_hosts_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr("time.perf_counter", lambda: 100.0)
    clock = DeviceClock()
    clock.start()
    moments = [clock.moment() for _ in range(2)]
    assert [clock.seconds(moment) for moment in moments] == [100.25, 100.5]
