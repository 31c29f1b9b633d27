"""Says whether this Python has what the project needs: exit status 0 if it has, 1 if not.

    python tools/check_environment.py                                   # the ranges of setup.py
    python tools/check_environment.py --extra dev                       # and those of an extra
    python tools/check_environment.py --pins requirements.txt           # exactly what a file pins

What is missing is printed, one line each. Nothing is installed or changed.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def ranges(extras: list[str]) -> list[str]:
    """The requirements that setup.py states, with those of the extras."""
    described = runpy.run_path(str(ROOT / "setup.py"), run_name="described")
    lines: list[str] = list(described["REQUIREMENTS"])
    for extra in extras:
        lines += described["EXTRAS"][extra]
    return lines


def pins(path: Path) -> list[str]:
    """The requirements of a pip file, without its comments."""
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return [line for line in lines if line]


def missing(requirements: list[str]) -> list[str]:
    """What of the requirements this Python lacks, in words."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return ["packaging is not installed"]  # Megatron-Core needs it: neither is here
    problems = []
    for requirement in map(Requirement, requirements):
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        try:
            installed = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            problems.append(f"{requirement.name} is not installed")
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            problems.append(f"{requirement.name} {installed} is installed, not {requirement.specifier}")
    return problems


def main() -> int:
    """Reads the command line, prints what is missing, returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--extra", action="append", default=[], help="an extra of setup.py (repeatable)")
    parser.add_argument("--pins", action="append", default=[], type=Path, help="a pip file (repeatable)")
    arguments = parser.parse_args()
    requirements = [line for path in arguments.pins for line in pins(path)]
    if not arguments.pins:
        requirements = ranges(arguments.extra)
    problems = missing(requirements)
    print("\n".join(problems), end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
