"""Training steps on one CUDA device: chunks, kernels, recomputation and sliced losses agree.

In float32 with the reference backend only the order of sums differs: 1e-4 after three updates, TF32
off. In bfloat16 every layer rounds activations to 8 bits (2^-9 each), differently under different
kernels and cuts; losses of about 5.5 nats agree to 2e-2 over three steps, and one wrong mask moves
the first loss of a trained model by more, but not of an untrained one: that is what the attention
tests beside this one are for.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).resolve().parents[2]
MODEL = (
    "--num-layers 4 --hidden-size 256 --num-attention-heads 4 --group-query-attention --num-query-groups 2 "
    "--seq-length 512 --micro-batch-size 2 --global-batch-size 4 --train-iters 3 --lr 1e-3 --log-interval 1 "
    "--mock-data --tokenizer-type NullTokenizer --vocab-size 511 --position-embedding-type rope --seed 7"
)
SEQ1F1B = "--pipeline-schedule seq1f1b --pipe-sp-splits"


def losses(folder: Path, *runs: str) -> list[list[float]]:
    """The loss of every step of each run; most of a run is its start, so they start together."""
    folders = [folder / str(index) for index in range(len(runs))]
    started = [
        subprocess.Popen(
            [sys.executable, "pretrain_gpt.py", *MODEL.split(), *flags.split(), "--run-dir", str(run_dir)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for flags, run_dir in zip(runs, folders, strict=True)
    ]
    try:
        for process in started:
            said, _ = process.communicate(timeout=300)
            assert process.returncode == 0, said
    finally:
        for process in started:
            process.kill()
    rows = [(run_dir / "metrics.jsonl").read_text().splitlines() for run_dir in folders]
    return [[json.loads(row)["lm_loss"] for row in each] for each in rows]


def test_chunks_in_float32(tmp_path: Path) -> None:
    whole, chunks = losses(
        tmp_path, *(f"--attention-backend reference {SEQ1F1B} {count}" for count in (1, 4))
    )
    assert chunks == pytest.approx(whole, rel=1e-4)


@pytest.mark.parametrize(
    "flags",
    [
        "",
        "--recompute-granularity full",
        "--recompute-granularity selective --recompute-modules core_attn mlp layernorm",
        "--cross-entropy-slice-tokens 100",
        "--pipeline-schedule seq1f1b-zb",
        "--window-size 100,0",
        "--reset-attention-mask --reset-position-ids",
    ],
)
def test_kernels_in_bfloat16(flags: str, tmp_path: Path) -> None:
    common = f"--bf16 {SEQ1F1B} 4 {flags}"
    exact, fast = losses(tmp_path, f"{common} --attention-backend reference", common)
    assert fast == pytest.approx(exact, abs=2e-2)
