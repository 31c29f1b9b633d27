"""The golden losses: twelve steps of a GPT-2-like and of a LLaMA-like model on one process.

    python -m tests.golden.runs

writes losses.json anew. Do that only where a change is meant to change what a model computes, and say
so in the commit: these numbers are what a reader of an old commit got.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from tests.harness import run_distributed
from tests.parity.layouts import GPT2_LIKE, LLAMA_LIKE
from tests.training.runs import losses_of, train_each

GOLDEN = Path(__file__).with_name("losses.json")
MODELS = {"gpt2-like": GPT2_LIKE, "llama-like": LLAMA_LIKE}
STEPS = (
    "--seq-length 64 --global-batch-size 8 --train-iters 12 --lr 1e-2 --min-lr 1e-3 --lr-warmup-iters 2 "
    "--weight-decay 0.1 --init-method-std 0.1"
)


def losses_under(layout: str, *, world_size: int) -> dict[str, list[float]]:
    """The losses of every model under one layout, on so many CPU processes."""
    with tempfile.TemporaryDirectory() as folder:
        runs = {name: (f"{shape} {STEPS} {layout}", f"{folder}/{name}") for name, shape in MODELS.items()}
        run_distributed(train_each, world_size, tuple(runs.values()))
        return {name: losses_of(run_dir) for name, (_, run_dir) in runs.items()}


def main() -> None:
    """Write the golden losses."""
    losses = losses_under("--pipeline-schedule 1f1b", world_size=1)
    GOLDEN.write_text(json.dumps(losses, indent=1) + "\n", encoding="utf-8")
    for name, of_model in losses.items():
        print(f"{GOLDEN}: {name}, {of_model[0]:.4f} to {of_model[-1]:.4f}")


if __name__ == "__main__":
    main()
