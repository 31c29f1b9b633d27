"""Our model and Hugging Face's on the same tokens: how far apart their logits are."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from megatron.seq1f1b.errors import CheckpointError
from megatron.seq1f1b.training.build import build
from megatron.seq1f1b.training.checkpoint.huggingface.convert import run_of
from megatron.seq1f1b.training.checkpoint.huggingface.files import read_folder
from megatron.seq1f1b.training.checkpoint.load import load
from megatron.seq1f1b.training.checkpoint.manifest import Manifest
from megatron.seq1f1b.training.distributed import join, leave


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Logits of two models in float32 for the same random tokens."""

    largest_difference: float
    largest_logit: float


def check_transformers() -> None:
    """Raises CheckpointError where Hugging Face's models are not installed."""
    if importlib.util.find_spec("transformers") is None:
        raise CheckpointError('--check-logits needs transformers; install the extra: pip install ".[hf]"')


def compare_logits(folder: Path, manifest: Manifest, theirs: Path) -> Comparison:
    """Run a checkpoint of ours and a folder of Hugging Face's on two sequences of random tokens.

    Raises:
        CheckpointError: transformers is not installed, or a model cannot be loaded.
    """
    config, _ = read_folder(theirs)
    expected = _their_logits(theirs)
    actual = _our_logits(folder, manifest, config, expected["tokens"])
    difference = (actual - expected["logits"]).abs().max()
    return Comparison(
        largest_difference=float(difference), largest_logit=float(expected["logits"].abs().max())
    )


def _their_logits(folder: Path) -> dict[str, torch.Tensor]:
    """Tokens and logits, from `reference.py`."""
    check_transformers()
    from safetensors.torch import load_file

    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "logits.safetensors"
        command = [sys.executable, str(Path(__file__).with_name("reference.py")), str(folder), str(output)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip() or "no message").splitlines()[-1]
            raise CheckpointError(f"transformers cannot run {folder}: {last}")
        return load_file(output)


def _our_logits(
    folder: Path, manifest: Manifest, config: dict[str, object], tokens: torch.Tensor
) -> torch.Tensor:
    """Logits of the ids in use, [batch, sequence, ids]."""
    run = run_of(config, "--load", str(folder.parent), "--no-load-optim", "--no-load-rng")
    join(run.config, run.layout)
    try:
        trained = build(run, params_dtype=torch.float32)
        load(run, trained, folder, manifest)
        part = trained.parts[0].eval()
        device = next(part.parameters()).device
        positions = torch.arange(tokens.shape[1]).expand_as(tokens)
        with torch.no_grad():
            logits: torch.Tensor = part(tokens.to(device), positions.to(device), None)
    finally:
        leave()
    return logits[..., : run.tokenizer.vocab_size].cpu()
