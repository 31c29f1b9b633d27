"""A run that ended early is explained by its first cause, not by what followed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.explain_failure import explain

GLOO = "RuntimeError: [pair.cc:553] Connection closed by peer [127.0.0.1]:33454."
SIGNALLED = "  traceback : Signal 9 (SIGKILL) received by PID 15152"
AGENT = "torch.distributed.elastic.multiprocessing.errors.ChildFailedError:"
HEARTBEAT = "The node 'n1' failed to send a heartbeat due to an error of type RendezvousConnectionError."


@pytest.mark.parametrize(
    ("lines", "kind", "reason"),
    [
        (
            [GLOO, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB.", AGENT],
            "out of memory",
            "Tried to allocate 2 GiB",
        ),
        (["pretrain_gpt.py: --seq-length 3 is odd", AGENT], "refused", "--seq-length 3 is odd"),
        (
            [GLOO, "[3] pretrain_gpt.py: rank 3: iteration 7: loss is nan", AGENT],
            "crashed",
            "rank 3: iteration 7: loss is nan",
        ),
        (["pretrain_gpt.py: failed: iteration 7: loss is nan", AGENT], "crashed", "iteration 7: loss"),
        (["pretrain_gpt.py: interrupted; with a flag it saves", AGENT], "crashed", "interrupted; with"),
        ([GLOO, "[2] [rank2]: ValueError: a cause", AGENT], "crashed", "ValueError: a cause"),
        ([GLOO, SIGNALLED, AGENT, HEARTBEAT], "crashed", "a process was killed (SIGKILL)"),
        ([GLOO, AGENT], "crashed", "Connection closed"),
        ([], "crashed", "no process said why"),
    ],
)
def test_the_cause_is_found(lines: list[str], kind: str, reason: str, tmp_path: Path) -> None:
    log = tmp_path / "logs" / "node0-n1" / "id_x" / "attempt_0" / "0" / "stderr.log"
    log.parent.mkdir(parents=True)
    log.write_text("")
    (tmp_path / "train.log").write_text("\n".join(lines))
    failure = explain(tmp_path)
    assert failure.kind == kind
    assert reason in failure.reason


def test_nodes_that_did_not_meet_are_told_where(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "rendezvous").write_text("n1:29500 (waited 300 s)\n")
    (tmp_path / "train.log").write_text(f"{HEARTBEAT}\n{AGENT}")
    failure = explain(tmp_path)
    assert failure.kind == "not joined"
    assert "n1:29500 (waited 300 s)" in failure.reason


def test_an_earlier_start_is_not_blamed(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    earlier = "CUDA out of memory\n"
    (tmp_path / "logs" / "started").write_text(str(len(earlier)))
    (tmp_path / "train.log").write_text(f"{earlier}ValueError: another cause\n")
    assert explain(tmp_path).reason == "ValueError: another cause"
