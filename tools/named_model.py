"""Print a model's size as flags of pretrain_gpt.py, one word per line.

python tools/named_model.py 7b
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megatron.seq1f1b.errors import Seq1F1BError
from megatron.seq1f1b.planning.models import MODELS, named_model
from tools.command_line import end_by_signals


def main() -> int:
    """Read the command line, print the flags; 2 where there is no such model."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help=f"one of {', '.join(MODELS)}")
    parser.add_argument(
        "--vocabulary", action="store_true", help="instead, a vocabulary of its size without files"
    )
    arguments = parser.parse_args()
    try:
        model = named_model(arguments.name)
    except Seq1F1BError as error:
        print(f"refused: MODEL={arguments.name}: {error}", file=sys.stderr)
        return 2
    size = [*model.flags(), *model.learning_rate_flags()]
    print("\n".join(model.mock_vocabulary_flags() if arguments.vocabulary else size))
    return 0


if __name__ == "__main__":
    end_by_signals()
    sys.exit(main())
