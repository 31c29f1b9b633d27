"""An import-linter contract that reads the house's plan as it is written: room -> what it may import.

import-linter's own contracts list what is forbidden, so that a new room would be open to all; and
they cannot name `megatron.core`, an outside package in the namespace that we share. The plan itself
stands in pyproject.toml.
"""

from __future__ import annotations

from typing import Any

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output

PACKAGE = "megatron.seq1f1b"
WATCHED_OUTSIDERS = ("torch", "numpy", "megatron.core")


class RoomsContract(Contract):
    """Each import from one room into another, or of a watched outside package, is in the plan.

    `plan` has a line per room, "room: room, room, torch"; `everywhere` names modules open to all.
    """

    plan = fields.ListField(subfield=fields.StringField())
    everywhere = fields.ListField(subfield=fields.StringField())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        allowed = dict(_parsed(str(line)) for line in self.plan)  # type: ignore[attr-defined]
        shared = {str(name) for name in self.everywhere}  # type: ignore[attr-defined]
        problems = []
        for importer in sorted(graph.modules):
            room = _room(importer)
            if room is None or importer == PACKAGE:
                continue
            for imported in sorted(graph.find_modules_directly_imported_by(importer)):
                target = imported if imported in WATCHED_OUTSIDERS else _room(imported)
                if target is None or target == room or target in shared:
                    continue
                if target not in allowed.get(room, frozenset()):
                    problems.append((importer, imported, room, target))
        return ContractCheck(kept=not problems, metadata={"problems": problems})

    def render_broken_contract(self, check: ContractCheck) -> None:
        problems: list[tuple[Any, ...]] = check.metadata["problems"]
        for importer, imported, room, target in problems:
            output.print_error(f"{importer} imports {imported}: the plan has no door {room} -> {target}")


def _parsed(line: str) -> tuple[str, frozenset[str]]:
    room, _, targets = line.partition(":")
    return room.strip(), frozenset(target.strip() for target in targets.split(",") if target.strip())


def _room(module: str) -> str | None:
    """The room of one of our modules, `schedule` for megatron.seq1f1b.schedule.plan; else None."""
    if module != PACKAGE and not module.startswith(PACKAGE + "."):
        return None
    return module[len(PACKAGE) + 1 :].split(".")[0]
