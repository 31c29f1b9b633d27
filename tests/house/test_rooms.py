"""The import contract itself: it sees a forbidden door, and lets the allowed ones be."""

from __future__ import annotations

from grimp import ImportGraph

from tests.house.rooms import RoomsContract


def problems_of(importer: str, imported: str) -> list[object]:
    graph = ImportGraph()
    for module in (importer, imported):
        graph.add_module(module)
    graph.add_import(importer=importer, imported=imported)
    plan = ["training: schedule, torch", "schedule:"]
    options = {"name": "rooms", "plan": plan, "everywhere": ["errors"]}
    contract = RoomsContract(name="rooms", session_options={}, contract_options=options)
    problems: list[object] = contract.check(graph, verbose=False).metadata["problems"]
    return problems


def test_a_door_in_the_plan_is_open() -> None:
    assert not problems_of("megatron.seq1f1b.training.loop", "megatron.seq1f1b.schedule.plan")


def test_a_door_that_is_not_in_the_plan_is_a_problem() -> None:
    assert problems_of("megatron.seq1f1b.schedule.plan", "megatron.seq1f1b.training.loop")


def test_a_watched_outside_package_needs_a_door_too() -> None:
    assert problems_of("megatron.seq1f1b.schedule.plan", "torch")
    assert not problems_of("megatron.seq1f1b.training.loop", "torch")


def test_a_room_without_a_line_may_import_nothing() -> None:
    assert problems_of("megatron.seq1f1b.newcomer", "megatron.seq1f1b.schedule")


def test_what_is_open_everywhere_needs_no_door() -> None:
    assert not problems_of("megatron.seq1f1b.schedule.plan", "megatron.seq1f1b.errors")
