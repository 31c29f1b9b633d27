#!/usr/bin/env python3
"""Write the page of every flag of pretrain_gpt.py, and of Megatron-LM's that are none of ours.

python tools/list_flags.py --output docs/flags.md
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from megatron.seq1f1b.config import make_parser
from megatron.seq1f1b.config.core_fields import core_field
from megatron.seq1f1b.config.megatron_flag_lists import ACCEPTED, REFUSED, by_flag
from tools.command_line import Parser, run

HEAD = """# Flags

Every flag of `pretrain_gpt.py`, then those of Megatron-LM that are not among them. Written by
`python tools/list_flags.py --output docs/flags.md`; a test compares. `[no-]` stands for both: the
switch, and what turns it off. Every flag may also stand in a file, see
[training.md](training.md#options-from-files).
"""
ACCEPTED_HEAD = """
## Megatron-LM's flags that change nothing here

They are accepted, and one line at the start says why they change nothing. A value in place of `X` is
the only one that is accepted: it asks for what happens anyway.
"""
REFUSED_HEAD = """
## Megatron-LM's flags that are refused

They would train something else, or what they ask for is said by another flag; the refusal says which.
Any other flag is refused with the nearest one that exists.
"""
CORE_HEAD = """
## Megatron-Core's configuration, field by field

Every field of `TransformerConfig`, `DistributedDataParallelConfig` and `OptimizerConfig` and every
argument of `GPTModel` that no flag above is named after: by which flag it is served, what it is derived
from, or why it stays as Megatron-Core has it. A test holds this against the installed release.
"""


def main() -> None:
    """Write the page."""
    parser = Parser(__doc__)
    parser.add_argument("--output", type=Path, required=True, help="where the page is written")
    parser.parse_args().output.write_text(page(), encoding="utf-8")


def page() -> str:
    """The page as Markdown."""
    parser = make_parser()
    parts = [HEAD]
    for group in parser._action_groups:
        actions = [each for each in group._group_actions if each.dest not in ("_without_effect", "help")]
        if actions:
            rows = ((_flag(each), _default(each), _meaning(each)) for each in actions)
            parts += [f"\n## {group.title}\n", _table(("flag", "default", "meaning"), rows)]
    for head, text in ((ACCEPTED_HEAD, ACCEPTED), (REFUSED_HEAD, REFUSED)):
        reasons = ((f"`{flag.replace('=', ' ')}`", why) for flag, why in sorted(by_flag(text).items()))
        parts += [head, _table(("flag", "why"), reasons)]
    parts += [CORE_HEAD, _table(("field", "", "how, or why not"), _core_rows())]
    return "\n".join(part.rstrip("\n") for part in parts) + "\n"


def _core_rows() -> Iterator[tuple[str, ...]]:
    """The fields of Megatron-Core's configuration that no flag is named after."""
    from megatron.seq1f1b.upstream import prepare_megatron_core

    prepare_megatron_core()
    from megatron.seq1f1b.upstream.fields import configuration_fields

    for name in configuration_fields():
        field = core_field(name)
        if field is not None and field.how != "--" + name.replace("_", "-"):
            yield f"`{name}`", field.reach.value, field.how


def _flag(action: argparse.Action) -> str:
    name = action.option_strings[0]
    if isinstance(action, argparse.BooleanOptionalAction):
        return f"`--[no-]{name.removeprefix('--')}`"
    if action.nargs == 0:
        return f"`{name}`"
    values = " or ".join(map(str, action.choices)) if action.choices else str(action.metavar)
    return f"`{name}` {values}{' ...' if action.nargs in ('*', '+') else ''}"


def _default(action: argparse.Action) -> str:
    default = action.default
    if default is None or default == [] or isinstance(default, bool):
        return "on" if default is True else ""
    return f"{default:g}" if isinstance(default, float) else str(default)


def _meaning(action: argparse.Action) -> str:
    return (action.help or "").split(" (default: ")[0].replace("%%", "%").replace("|", "\\|")


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n" + "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    run(main)
