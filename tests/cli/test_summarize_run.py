"""tools/summarize_run.py: what a run did, from its metrics.jsonl."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.tools import run_script


def summarize(folder: Path, rows: list[dict[str, object]]) -> list[str]:
    torn = '{"iteration": 9, "lm_l'
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + torn)
    return run_script("tools/summarize_run.py", folder).stdout.splitlines()


def row(step: int, **others: object) -> dict[str, object]:
    return {
        "iteration": step,
        "lm_loss": 4.0 - step / 2,
        "tokens_per_second": 100.0,
        "step_seconds": 0.5,
        "peak_memory_bytes": [2**20, 2**21],
        "consumed_tokens": 50 * step,
        **others,
    }


def test_a_quiet_run(tmp_path: Path) -> None:
    lines = summarize(tmp_path, [row(step) for step in (1, 2, 3)])
    assert lines[0] == "trained  3 steps on 150 tokens"
    assert lines[1].startswith("loss     3.500 at the first step")
    assert lines[4] == "memory   1, 2 MiB at most, stage by stage"
    assert not any(line.startswith(("checked", "trouble")) for line in lines)


def test_validations_and_trouble(tmp_path: Path) -> None:
    losses = {"code": 1.0, "prose": 2.0}
    rows = [
        row(1, validation_loss=9.0),
        row(2, validation_loss=1.5, validation_losses=losses, test_loss=None),
        row(3, validation_loss=None, skipped_steps=2, loss_spikes=1, test_loss=1.25),
    ]
    lines = summarize(tmp_path, rows)
    assert "checked  validation loss 1.500 (code 1.000, prose 2.000) at step 2" in lines
    assert "         test loss 1.250" in lines
    assert "trouble  2 steps skipped, 1 loss spikes" in lines
