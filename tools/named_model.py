"""Print a model's size as flags of pretrain_gpt.py, one word per line.

python tools/named_model.py 7b
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megatron.seq1f1b.planning.models import MODELS, named_model
from tools.command_line import Parser, end_by_signals, run


def main() -> None:
    """Read the command line, print the flags."""
    parser = Parser(__doc__)
    parser.add_argument("name", help=f"one of {', '.join(MODELS)}")
    parser.add_argument(
        "--vocabulary", action="store_true", help="instead, a vocabulary of its size without files"
    )
    arguments = parser.parse_args()
    model = named_model(arguments.name)
    size = [*model.flags(), *model.learning_rate_flags()]
    print("\n".join(model.mock_vocabulary_flags() if arguments.vocabulary else size))


if __name__ == "__main__":
    end_by_signals()
    run(main)
