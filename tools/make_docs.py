r"""Make the manual's generated parts: pictures of schedules, tables, plots, and the page of all flags.

    python tools/make_docs.py
    python tools/make_docs.py --record step_time -- torchrun --standalone --nproc_per_node 4 \
        benchmarks/step_time.py --microbatches 4

Pictures stand in docs/pictures, drawn from the same plans, costs and estimates that the tools print.
Tables stand in the pages between lines that say so. Measured figures come from docs/results: --record
runs a benchmark, keeps the JSON objects that it prints with the command, the machine and the day, and
makes everything anew. A test fails where a part is not what this command makes of the sources.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megatron.seq1f1b.errors import DataError
from tools.command_line import Parser, run
from tools.list_flags import page as flags_page
from tools.manual.pictures import PICTURES
from tools.manual.results import Result, plot, read_results, section
from tools.manual.tables import TABLES

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
RESULTS = DOCS / "results"
_BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end of generated -->)", re.S)


def generated() -> dict[Path, str]:
    """Every file that has generated parts, as it should be."""
    results = read_results(RESULTS)
    files = {DOCS / name: draw() for name, draw in PICTURES.items()}
    files |= {DOCS / "pictures" / f"result_{each.name}.svg": plot(each) for each in results if each.bars}
    files[DOCS / "flags.md"] = flags_page()
    for page in sorted(DOCS.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if _BLOCK.search(text):
            files[page] = filled(text, results)
    return files


def filled(text: str, results: list[Result]) -> str:
    """A page with its tables made anew."""

    def block(found: re.Match[str]) -> str:
        name = found.group(2)
        made = "\n".join(map(section, results)) if name == "results" else TABLES[name]()
        return f"{found.group(1)}{made.rstrip()}\n{found.group(3)}"

    return _BLOCK.sub(block, text)


def record(name: str, command: list[str]) -> None:
    """Run a benchmark and keep what it prints; titles and bars are those of the record before."""
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    rows = [row_of(line) for line in done.stdout.splitlines() if "{" in line]
    if not rows:
        raise DataError(f"{command} printed no JSON object")
    path = RESULTS / f"{name}.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    kept = {
        "title": before.get("title", name.replace("_", " ")),
        "says": before.get("says", ""),
        "label": before.get("label", ""),
        "columns": before.get("columns", []),
        "bars": before.get("bars", []),
        "command": " ".join(command),
        "machine": f"{processor()}, {len(os.sched_getaffinity(0))} cores",
        "day": datetime.now(timezone.utc).date().isoformat(),
        "rows": rows,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


def row_of(line: str) -> dict[str, object]:
    """A JSON object, or a name and one."""
    name, _, rest = line.partition("{")
    found: dict[str, object] = json.loads("{" + rest)
    return {"name": name.strip(), **found} if name.strip() else found


def processor() -> str:
    """What Linux calls it."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def main() -> None:
    """Record what was asked for, then write what has changed."""
    parser = Parser(__doc__)
    parser.add_argument("--record", metavar="NAME", help="run the command behind -- and keep its figures")
    parser.add_argument("command", nargs="*", help="a benchmark, behind --")
    arguments = parser.parse_args()
    if (arguments.record is None) != (not arguments.command):
        parser.error("--record NAME and a command behind -- belong together")
    if arguments.record is not None:
        record(arguments.record, arguments.command)
    for path, text in generated().items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    run(main)
