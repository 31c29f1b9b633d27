"""Show what a pipeline schedule does: its timeline, its actions, its bubble and its memory.

    python tools/show_schedule.py --schedule seq1f1b --stages 4 --microbatches 4 --chunks 4
    python tools/show_schedule.py --schedule plan.csv --format json
    python tools/show_schedule.py --compare 1f1b,seq1f1b,seq1f1b-zb --stages 8 --microbatches 16 --chunks 4
        --model 7b --seq-length 32768 --device a100 --format html --output compared.html

By default costs are equal for all chunks and stages: a forward takes 1 second, a backward 2, and each
half of a split backward 1. --cost changes them; --model, --seq-length and --device take them from the
model's FLOPs and a device's profile, and give memory in bytes. A plan file needs no counts; those that
are given must agree with it. With --compare every schedule does the same work: one that takes whole
sequences gets as many seconds for each as the others for all its chunks.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megatron.seq1f1b.errors import ConfigurationError
from megatron.seq1f1b.partition import PARTITION_STRATEGIES
from megatron.seq1f1b.planning.devices import load_device
from megatron.seq1f1b.planning.drawing import to_svg
from megatron.seq1f1b.planning.links import read_links
from megatron.seq1f1b.planning.models import MODELS, named_model
from megatron.seq1f1b.planning.nearest import nearest
from megatron.seq1f1b.planning.page import to_page
from megatron.seq1f1b.planning.png import to_png
from megatron.seq1f1b.planning.shown import Shown, show_model, show_units
from megatron.seq1f1b.planning.timeline import UNBROKEN, draw
from megatron.seq1f1b.planning.trace import to_trace
from megatron.seq1f1b.schedule import (
    SCHEDULE_NAMES,
    Plan,
    is_plan_file,
    make_plan,
    plan_from_csv,
    plan_to_csv,
)
from tools.command_line import Parser, end_by_signals, run

FORMATS = ("grid", "csv", "json", "svg", "png", "trace", "html")
ONE_PLAN = ("csv", "trace")
"""Formats that hold one plan."""

COUNTS = {
    "stages": "num_stages",
    "microbatches": "num_microbatches",
    "chunks": "num_chunks",
    "virtual_stages": "num_virtual_stages",
}
"""The flags that give counts, and where a plan keeps them."""

WHOLE_SEQUENCES = ("1f1b", "interleaved")
INTERLEAVED = ("interleaved", "seq1f1b-interleaved")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    names = ", ".join(SCHEDULE_NAMES)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--schedule", help=f"a plan file (*.csv), or one of {names}")
    which.add_argument("--compare", metavar="A,B,...", help="several of those names, side by side")
    parser.add_argument("--stages", type=int, metavar="P", help="pipeline stages")
    parser.add_argument("--microbatches", type=int, metavar="M", help="microbatches per step")
    parser.add_argument("--chunks", type=int, metavar="K", help="chunks per microbatch")
    parser.add_argument("--virtual-stages", type=int, metavar="V", help="model parts per stage (1)")
    parser.add_argument("--format", choices=FORMATS, default="grid", help="(grid)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write there (standard output)")
    parser.add_argument(
        "--stage-memory", action="store_true", help="also say what each stage holds (pictures do)"
    )
    parser.add_argument("--cost", metavar="F,B", help="seconds of a forward and a backward (1,2)")
    parser.add_argument("--model", metavar="NAME", help=f"costs of a model: {', '.join(MODELS)}")
    parser.add_argument("--seq-length", type=int, metavar="S", help="tokens of a sequence, with --model")
    parser.add_argument("--device", metavar="NAME", help="a100, h100 or a .json file, with --model (a100)")
    parser.add_argument(
        "--links", type=Path, metavar="FILE", help="what tools/measure_links.py wrote, with --model"
    )
    parser.add_argument(
        "--tensor-parallel", type=int, metavar="T", help="devices per stage, with --model (1)"
    )
    parser.add_argument(
        "--strategy", choices=PARTITION_STRATEGIES, help="of cutting, with --model (uniform_comp)"
    )
    return parser.parse_args()


def plans_of(arguments: argparse.Namespace) -> list[Plan]:
    """The plans that the command line names."""
    if arguments.format in ONE_PLAN and arguments.stage_memory:
        raise ConfigurationError(
            f"--format {arguments.format} has no place for --stage-memory; use grid or json"
        )
    if arguments.compare is None:
        return [_plan_of(arguments, arguments.schedule)]
    if arguments.format in ONE_PLAN:
        raise ConfigurationError(f"--format {arguments.format} holds one plan; use --schedule, not --compare")
    plans = [_plan_of(arguments, name.strip()) for name in arguments.compare.split(",")]
    names = [plan.name for plan in plans]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigurationError(
            f"--compare names {twice} twice; name every schedule once, and files differently"
        )
    return plans


def _plan_of(arguments: argparse.Namespace, name: str) -> Plan:
    if is_plan_file(name):
        return _plan_from_file(arguments, Path(name))
    counts = {flag: getattr(arguments, flag) for flag in COUNTS}
    counts["virtual_stages"] = 1 if counts["virtual_stages"] is None else counts["virtual_stages"]
    missing = [_flag(flag) for flag, count in counts.items() if count is None]
    if missing and name in SCHEDULE_NAMES:
        raise ConfigurationError(f"schedule {name} needs {', '.join(missing)} as well")
    if arguments.compare is not None:
        counts["chunks"] = 1 if name in WHOLE_SEQUENCES else counts["chunks"]
        counts["virtual_stages"] = counts["virtual_stages"] if name in INTERLEAVED else 1
    return make_plan(name, **counts)


def _plan_from_file(arguments: argparse.Namespace, path: Path) -> Plan:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"cannot read plan file {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"plan file {path} is not text: {error}") from None
    plan = plan_from_csv(text, name=path.name)
    for name, attribute in COUNTS.items():
        asked, found = getattr(arguments, name), getattr(plan, attribute)
        if asked is not None and asked != found:
            raise ConfigurationError(
                f"{_flag(name)} {asked} disagrees with plan file {path}, which has {found}; "
                "leave the flag out, or use another file"
            )
    return plan


def shown_of(arguments: argparse.Namespace, plans: Sequence[Plan]) -> list[Shown]:
    """The plans, simulated with the costs that were asked for."""
    if arguments.model is None:
        for name in ("seq_length", "device", "links", "tensor_parallel", "strategy"):
            if getattr(arguments, name) is not None:
                raise ConfigurationError(
                    f"{_flag(name)} means nothing without --model; give one, or leave it out"
                )
        return _with_units(arguments, plans)
    if arguments.cost is not None:
        raise ConfigurationError("--cost and --model are two sources of costs; give one of them")
    if arguments.seq_length is None:
        raise ConfigurationError("--model needs --seq-length as well")
    tensor_parallel = 1 if arguments.tensor_parallel is None else arguments.tensor_parallel
    model, device = named_model(arguments.model), load_device(arguments.device or "a100")
    if arguments.links is not None:
        device = read_links(arguments.links).on(device)
    if tensor_parallel < 1 or not model.can_share(tensor_parallel):
        possible = nearest(tensor_parallel, filter(model.can_share, range(1, model.num_heads + 1)))
        raise ConfigurationError(
            f"--tensor-parallel {tensor_parallel} processes cannot share the model's {model.num_heads} "
            f"heads and {model.num_query_groups or model.num_heads} groups of keys and values evenly; use "
            f"{possible}"
        )
    return [
        show_model(
            plan,
            model=model,
            device=device,
            seq_length=arguments.seq_length,
            tensor_parallel=tensor_parallel,
            strategy=arguments.strategy or "uniform_comp",
        )
        for plan in plans
    ]


def _with_units(arguments: argparse.Namespace, plans: Sequence[Plan]) -> list[Shown]:
    forward, backward = _cost(arguments.cost)
    costs = f"F = {forward:g} s, B = {backward:g} s"
    if forward == backward / 2 == 1:
        costs = "F = I = W = 1 s, B = 2 s"
    finest = max(plan.num_chunks * plan.num_virtual_stages for plan in plans)
    shown = []
    for plan in plans:
        units = finest / (plan.num_chunks * plan.num_virtual_stages)
        shown.append(
            show_units(plan, forward_seconds=forward * units, backward_seconds=backward * units, costs=costs)
        )
    return shown


def _cost(text: str | None) -> tuple[float, float]:
    try:
        forward, backward = (float(part) for part in (text or "1,2").split(","))
    except ValueError:
        raise ConfigurationError(f"--cost {text} is not two numbers of seconds, as in 1,2.5") from None
    if not (0 < forward < float("inf") and 0 < backward < float("inf")):
        raise ConfigurationError(f"--cost {text} must be positive seconds")
    return forward, backward


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def rendered(arguments: argparse.Namespace, shown: Sequence[Shown]) -> str | bytes:
    """What is to be written."""
    form, has_memory = arguments.format, arguments.stage_memory
    if form == "csv":
        return plan_to_csv(shown[0].plan)
    if form == "json":
        objects = {each.plan.name: each.to_object(has_stage_memory=has_memory) for each in shown}
        return json.dumps(objects if arguments.compare else objects[shown[0].plan.name]) + "\n"
    if form == "trace":
        return to_trace(shown[0].simulation, name=shown[0].plan.name) + "\n"
    if form == "grid":
        titles = [f"{each.plan.name}\n" if arguments.compare else "" for each in shown]
        grids = [each.to_grid(has_stage_memory=has_memory) for each in shown]
        return "\n\n".join(title + grid for title, grid in zip(titles, grids, strict=True)) + "\n"
    panels = [each.to_panel() for each in shown]
    if form == "html":
        return to_page(panels, draw(panels, band_width=UNBROKEN))
    drawing = draw(panels)
    return to_svg(drawing) if form == "svg" else to_png(drawing)


def in_own_words(message: str) -> str:
    """A message that names flags of a run, with this tool's."""
    for of_run, own in {"--pipe-sp-splits": "--chunks", "--pipe-sp-strategy": "--strategy"}.items():
        message = message.replace(of_run, own)
    return message


def main() -> None:
    """Write what was asked for."""
    arguments = parse_arguments()
    written = rendered(arguments, shown_of(arguments, plans_of(arguments)))
    data = written.encode() if isinstance(written, str) else written
    if arguments.output is not None:
        arguments.output.write_bytes(data)
    else:
        sys.stdout.buffer.write(data)


if __name__ == "__main__":
    end_by_signals()
    run(main, in_own_words=in_own_words)
