"""Convert checkpoints to and from Hugging Face's format: GPT-2 and Llama models, as safetensors.

    python tools/convert_checkpoint.py to-hf --load SAVE --output FOLDER --check-logits
    python tools/convert_checkpoint.py from-hf --input FOLDER --save SAVE --check-logits

`SAVE` is the --save folder of a run. What comes from Hugging Face becomes its checkpoint of step 0,
which any layout can --load. A checkpoint needs no conversion to be loaded under another layout.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megatron.seq1f1b.errors import ConfigurationError
from tools.command_line import Parser, run


def main() -> int:
    """Convert; 1 when the logits differ by more than --tolerance."""
    options = _parser().parse_args()
    from megatron.seq1f1b.upstream import prepare_megatron_core

    prepare_megatron_core()
    from megatron.seq1f1b.training.checkpoint.huggingface import convert, logits

    if options.check_logits:
        logits.check_transformers()
    if options.command == "to-hf":
        ours, theirs = convert.find(options.load, step=options.ckpt_step), options.output
        if theirs.is_file():
            raise ConfigurationError(f"--output {theirs} is a file; name a folder")
        convert.to_hugging_face(*ours, theirs, max_bytes=int(options.max_shard_gb * 1e9))
        print(f"wrote {theirs}")
    else:
        theirs = options.input
        print(f"wrote {convert.from_hugging_face(theirs, options.save)}")
        ours = convert.find(options.save, step=0)
    if not options.check_logits:
        return 0
    found = logits.compare_logits(*ours, theirs)
    print(
        f"largest difference of logits: {found.largest_difference:.3g} "
        f"(largest logit {found.largest_logit:.3g}, tolerance {options.tolerance:g})"
    )
    return 0 if found.largest_difference <= options.tolerance else 1


def _parser() -> argparse.ArgumentParser:
    parser = Parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    there = commands.add_parser("to-hf", help="a checkpoint of ours as a model of Hugging Face's")
    there.add_argument("--load", type=Path, required=True, help="the --save folder of a run")
    there.add_argument("--ckpt-step", type=int, help="the checkpoint of this step (default: the latest)")
    there.add_argument("--output", type=Path, required=True, help="folder to write")
    there.add_argument("--max-shard-gb", type=float, default=5.0, help="size of a file (default: 5)")
    back = commands.add_parser("from-hf", help="a model of Hugging Face's as a checkpoint of ours")
    back.add_argument("--input", type=Path, required=True, help="folder with config.json and safetensors")
    back.add_argument("--save", type=Path, required=True, help="folder of checkpoints to write to")
    for command in (there, back):
        command.add_argument("--check-logits", action="store_true", help="run both models and compare")
        command.add_argument("--tolerance", type=float, default=1e-3, help="of the logits (default: 1e-3)")
    return parser


if __name__ == "__main__":
    run(main)
