"""A checkpoint of ours to a folder of Hugging Face's format, and back, in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megatron.core.dist_checkpointing import ShardedObject, ShardedTensor

from megatron.seq1f1b.config import parse_arguments
from megatron.seq1f1b.training.checkpoint import folder as folders
from megatron.seq1f1b.training.checkpoint.compatibility import model_of
from megatron.seq1f1b.training.checkpoint.huggingface.families import config_of, flags_of
from megatron.seq1f1b.training.checkpoint.huggingface.files import read_folder, write_folder
from megatron.seq1f1b.training.checkpoint.huggingface.weights import Translation
from megatron.seq1f1b.training.checkpoint.manifest import Manifest
from megatron.seq1f1b.training.checkpoint.save import Pending
from megatron.seq1f1b.training.checkpoint.state import METADATA
from megatron.seq1f1b.training.checkpoint.tensors import read_tensors
from megatron.seq1f1b.training.distributed import join, leave
from megatron.seq1f1b.training.prepare import Run, prepare
from megatron.seq1f1b.upstream import checkpoints

_UNUSED = "--train-iters 1 --micro-batch-size 1 --lr 1 --mock-data"
"""What a run must say and a conversion does not need."""


def to_hugging_face(folder: Path, manifest: Manifest, output: Path, *, max_bytes: int) -> None:
    """Write a checkpoint's weights as a model of Hugging Face's.

    Raises:
        CheckpointError: a model that has no counterpart there, or tensors that do not fit it.
    """
    config = config_of(manifest.model, manifest.configuration["model"])
    ours = read_tensors(folder, lambda name: not name.startswith("optimizer"))
    padded = ours["embedding.word_embeddings.weight"].shape[0]
    translation = Translation(model=manifest.model, padded_vocab_size=padded)
    write_folder(output, config, translation.to_hugging_face(ours), max_bytes=max_bytes)


def from_hugging_face(source: Path, save: Path) -> Path:
    """Write a model of Hugging Face's as the checkpoint of step 0; returns its folder.

    Raises:
        CheckpointError: a model that has no counterpart here, or tensors that do not fit it.
    """
    config, theirs = read_folder(source)
    run = run_of(config, "--save", str(save), "--no-save-optim", "--no-save-rng")
    folders.check_writable(save)
    padded = run.dimensions.padded_vocab_size
    ours = Translation(model=model_of(run), padded_vocab_size=padded).from_hugging_face(theirs)
    tensors = {name: ShardedTensor.from_rank_offsets(name, value) for name, value in ours.items()}
    state = {"model": {**tensors, **_extra_states(run.config.model.num_layers)}}
    join(run.config, run.layout)
    try:
        partial = folders.begin(save, 0)
        writing = checkpoints.Save(state, partial, content_metadata=dict(METADATA))
        Pending(run, partial, iteration=0, writing=writing).finish()
    finally:
        leave()
    return save / folders.name_of(0)


def _extra_states(num_layers: int) -> dict[str, ShardedObject]:
    """The empty place that every linear layer of Megatron-Core has for Transformer Engine's state."""
    linear = ("self_attention.linear_qkv", "self_attention.linear_proj", "mlp.linear_fc1", "mlp.linear_fc2")
    return {
        f"{name}.{index}": ShardedObject(f"decoder.layers.{name}._extra_state", None, (num_layers,), (index,))
        for name in linear
        for index in range(num_layers)
    }


def run_of(config: dict[str, Any], *more: str) -> Run:
    """A run of the model of a `config.json` in one process."""
    return prepare(parse_arguments([*flags_of(config), *_UNUSED.split(), *more]), world_size=1)
