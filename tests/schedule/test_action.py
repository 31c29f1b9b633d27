from __future__ import annotations

import pickle

import pytest

from megatron.seq1f1b.errors import PlanError
from megatron.seq1f1b.schedule import Action, ActionKind


@pytest.mark.parametrize("kind", list(ActionKind))
def test_text_and_action_are_the_same(kind: ActionKind) -> None:
    action = Action(kind, 12, 3, 1)
    assert str(action) == f"12{kind.value}3.1"
    assert Action.parse(str(action)) == action
    assert f"{action}" == str(action)


def test_parse_ignores_blanks_around() -> None:
    assert Action.parse(" 2F3.1\n") == Action(ActionKind.F, 2, 3, 1)


@pytest.mark.parametrize(
    "text", ["", "2F3", "F3.1", "2X3.1", "2f3.1", "-2F3.1", "2F3.1.0", "2F 3.1", "٢F3.1", "9" * 5000 + "F0.0"]
)
def test_parse_refuses_other_text(text: str) -> None:
    with pytest.raises(PlanError, match="is not an action"):
        Action.parse(text)


def test_kinds_survive_pickling_and_hash_as_their_text() -> None:
    assert pickle.loads(pickle.dumps(ActionKind.SEND_F)) is ActionKind.SEND_F
    assert hash(ActionKind.F) == hash("F")


def test_kinds_compute_send_or_receive() -> None:
    assert [kind.value for kind in ActionKind if kind.is_compute] == ["F", "B", "I", "W"]
    assert [kind.value for kind in ActionKind if kind.is_send] == ["SEND_F", "SEND_B"]
    assert [kind.value for kind in ActionKind if kind.is_receive] == ["RECV_F", "RECV_B"]
