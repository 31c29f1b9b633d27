"""Convert checkpoints to and from Hugging Face's format, write them anew in other files, check them.

    python tools/convert_checkpoint.py to-hf --load SAVE --output FOLDER --check-logits
    python tools/convert_checkpoint.py from-hf --input FOLDER --save SAVE --check-logits
    python tools/convert_checkpoint.py reshard --load SAVE --save OTHER --num-files 4 --no-save-optim
    python tools/convert_checkpoint.py check --load SAVE

`SAVE` is the --save folder of a run. GPT-2 and Llama models go to safetensors and back; what comes from
Hugging Face becomes the checkpoint of step 0, which any layout can --load. A checkpoint needs nothing to
be loaded under another layout: `reshard` is for fewer files, or weights alone. `check` compares every
file of every checkpoint with what was written.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megatron.seq1f1b.errors import CheckpointError, ConfigurationError
from tools.command_line import Parser, run


def main() -> int:
    """Convert; 1 when the logits differ by more than --tolerance, or a checkpoint is damaged."""
    options = _parser().parse_args()
    from megatron.seq1f1b.upstream import prepare_megatron_core

    prepare_megatron_core()
    if options.command == "check":
        return _check(options)
    if options.command == "reshard":
        return _reshard(options)
    return _convert(options)


def _convert(options: argparse.Namespace) -> int:
    from megatron.seq1f1b.training.checkpoint.huggingface import convert, logits
    from megatron.seq1f1b.training.checkpoint.integrity import find_sound

    if options.check_logits:
        logits.check_transformers()
    if options.command == "to-hf":
        ours, theirs = find_sound(options.load, step=options.ckpt_step), options.output
        if theirs.is_file():
            raise ConfigurationError(f"--output {theirs} is a file; name a folder")
        convert.to_hugging_face(*ours, theirs, max_bytes=int(options.max_shard_gb * 1e9))
        print(f"wrote {theirs}")
    else:
        theirs = options.input
        print(f"wrote {convert.from_hugging_face(theirs, options.save)}")
        ours = find_sound(options.save, step=0)
    if not options.check_logits:
        return 0
    found = logits.compare_logits(*ours, theirs)
    print(
        f"largest difference of logits: {found.largest_difference:.3g} "
        f"(largest logit {found.largest_logit:.3g}, tolerance {options.tolerance:g})"
    )
    return 0 if found.largest_difference <= options.tolerance else 1


def _reshard(options: argparse.Namespace) -> int:
    from megatron.seq1f1b.training.checkpoint.integrity import find_sound
    from megatron.seq1f1b.training.checkpoint.reshard import reshard

    if options.num_files < 1:
        raise ConfigurationError(f"--num-files {options.num_files}: one file at least")
    found = find_sound(options.load, step=options.ckpt_step)
    has_optimizer = not options.no_save_optim
    written = reshard(*found, options.save, num_files=options.num_files, has_optimizer=has_optimizer)
    print(f"wrote {written}")
    return 0


def _check(options: argparse.Namespace) -> int:
    """Say of every checkpoint whether it is what was written."""
    from megatron.seq1f1b.training.checkpoint import folder, integrity
    from megatron.seq1f1b.training.checkpoint.manifest import read_manifest

    steps = folder.iterations_of(options.load) if options.ckpt_step is None else [options.ckpt_step]
    if not steps:
        raise CheckpointError(f"{options.load} holds no checkpoint; give the --save of a run")
    num_damaged = 0
    for step in steps:
        path = options.load / folder.name_of(step)
        try:
            manifest = read_manifest(path)
            damage = integrity.damage_of(path, manifest)
        except CheckpointError as error:
            damage = str(error)
        num_damaged += bool(damage)
        compared = f"{len(manifest.checksums)} checksums" if not damage and manifest.checksums else "sizes"
        print(damage or f"{path} is as it was written, by its {compared}")
    return int(num_damaged > 0)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    there = commands.add_parser("to-hf", help="a checkpoint of ours as a model of Hugging Face's")
    there.add_argument("--output", type=Path, required=True, help="folder to write")
    there.add_argument("--max-shard-gb", type=float, default=5.0, help="size of a file (default: 5)")
    back = commands.add_parser("from-hf", help="a model of Hugging Face's as a checkpoint of ours")
    back.add_argument("--input", type=Path, required=True, help="folder with config.json and safetensors")
    back.add_argument("--save", type=Path, required=True, help="folder of checkpoints to write to")
    anew = commands.add_parser("reshard", help="a checkpoint in other files, or without the optimizer")
    anew.add_argument("--save", type=Path, required=True, help="another folder of checkpoints to write to")
    anew.add_argument("--num-files", type=int, default=1, help="files that hold the tensors (default: 1)")
    anew.add_argument("--no-save-optim", action="store_true", help="leave the optimizer's state out")
    check = commands.add_parser("check", help="whether checkpoints are what was written")
    for command in (there, anew, check):
        command.add_argument("--load", type=Path, required=True, help="the --save folder of a run")
        which = "all" if command is check else "the latest"
        command.add_argument("--ckpt-step", type=int, help=f"the checkpoint of this step (default: {which})")
    for command in (there, back):
        command.add_argument("--check-logits", action="store_true", help="run both models and compare")
        command.add_argument("--tolerance", type=float, default=1e-3, help="of the logits (default: 1e-3)")
    return parser


if __name__ == "__main__":
    run(main)
