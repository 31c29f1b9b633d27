from __future__ import annotations

import pytest

from megatron.seq1f1b.errors import PlanError
from megatron.seq1f1b.schedule import SCHEDULE_NAMES, add_communication, make_plan, plan_from_csv, plan_to_csv

GOOD = "0F0.0,0F0.1,0B0.1,0B0.0\n1F0.0,1F0.1,1B0.1,1B0.0\n"


@pytest.mark.parametrize("name", SCHEDULE_NAMES)
@pytest.mark.parametrize("forward_only", [False, True])
def test_plans_come_back_as_they_were(name: str, forward_only: bool) -> None:
    plan = make_plan(
        name,
        stages=2,
        microbatches=4,
        chunks=2 if name.startswith("seq") else 1,
        virtual_stages=2 if name.endswith("interleaved") else 1,
        forward_only=forward_only,
    )
    assert plan_from_csv(plan_to_csv(plan), name=name) == plan
    communicating = add_communication(plan)
    assert plan_from_csv(plan_to_csv(communicating), name=name) == communicating


def test_text_is_one_row_per_rank() -> None:
    assert plan_to_csv(make_plan("seq1f1b", stages=2, microbatches=1, chunks=2)) == GOOD


def test_a_timetable_with_gaps_and_remarks_reads_the_same() -> None:
    timetable = "\ufeff# two stages\n\n0F0.0, 0F0.1 ,,,0B0.1,0B0.0\r\n,1F0.0,1F0.1,1B0.1,1B0.0,\n"
    assert plan_from_csv(timetable).actions == plan_from_csv(GOOD).actions


@pytest.mark.parametrize(
    "saved",
    [
        GOOD.replace(",", ";"),
        GOOD.replace(",", "\t"),
        "\n".join(",".join(f'"{cell}"' for cell in line.split(",")) for line in ["# of, two", *GOOD.split()]),
    ],
)
def test_what_spreadsheets_save_reads_the_same(saved: str) -> None:
    assert plan_from_csv(saved).actions == plan_from_csv(GOOD).actions


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no actions"),
        ("# nothing\n\n", "has no actions"),
        ("0F0.0,0F0,0B0.0\n", "line 1, column 2: '0F0' is not an action"),
        ("\n0F0.0,0B0.0\n1F0.0,1X0.0\n", "line 3, column 2: '1X0.0' is not an action"),
        ("0F0.0,0B0.0\n,,\n", "line 2: a pipeline rank without any action"),
        ("0F0.0;0B0.0;" + "x" * 99 + "\n", "line 1, column 3: 'x{40}...' is not an action"),
        ("0F0.0,2F0.0,2B0.0,0B0.0\n1F0.0,1B0.0\n", "line 2: .*3F0.0: 3F0.0 is missing"),
        ("0F0.0,0B0.0\n1F0.0,1B0.0,21F0.0,1B0.0\n", "line 2: .*21F0.0: there is no virtual stage 21; the"),
        (GOOD + GOOD.splitlines()[1], "line 3: .*1F0.0: virtual stage 1 lives on rank 1, not on rank 2"),
        (GOOD.splitlines()[1], "line 1: .*1F0.0: there is no virtual stage 1; the plan has 1 on 1 ranks"),
        (GOOD.replace("1B0.1,", ""), "line 2: .*1B0.1: 1B0.1 is missing"),
        (GOOD.replace("0B0.1,", "0B0.1,0B0.1,"), "line 1: .*position 3, 0B0.1: it stands at position 2"),
        ("# remark\n" + GOOD.replace("1B0.1,1B0.0", "1B0.0,1B0.1"), "line 3: .*1B0.0: it needs 1B0.1"),
        (
            "0F0.0,0SEND_F0.0,0B0.0\n1RECV_F0.0,1F0.0,1B0.0,1SEND_B0.0\n",
            "0RECV_B0.0 is missing",
        ),
        (
            "0F0.0,0RECV_B0.0,0B0.0\n1RECV_F0.0,1F0.0,1B0.0,1SEND_B0.0\n",
            "line 2: .*1RECV_F0.0: rank 0 never sends it: 0SEND_F0.0 is missing",
        ),
        ("0F0.0,0F999999999.0,0B0.0\n", "0F999999999.0: there is no microbatch 999999999; the plan has 1"),
        (GOOD.replace("1F0.1", "1RECV_F9.1,1F0.1"), "line 2: .*1RECV_F9.1: there is no microbatch 9; the"),
        (GOOD.replace("F0.", "F1."), "line 1: .*0F0.0: 0F0.0 is missing; 0B0.0 needs it"),
        ("0F0.0,0B0.0,0B1.0,0F2.0,0B2.0\n", "line 1: .*0F1.0: 0F1.0 is missing; 0B1.0 needs it"),
        ("0F0.0,0B1.0,0F1.0,0B0.0\n1F0.0,1F1.0,1B0.0,1B1.0\n", "0B1.0: it needs 0F1.0"),
        ("0F0.0,0B0.0,0F1.0,0B1.0\n1F0.0,1F1.0,1B0.0,1B1.0\n", "line 1: .*deadlock: rank 0 waits at 0B0.0"),
    ],
)
def test_bad_files_are_refused_with_line_and_action(text: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        plan_from_csv(text)
