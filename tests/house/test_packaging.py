"""What `pip install .` gives, and that pins, ranges and code name the same versions."""

from __future__ import annotations

import ast
import os
import runpy
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from megatron.seq1f1b.upstream import version as upstream_version

ROOT = Path(__file__).resolve().parents[2]
IMPORTED_AS = {"pyyaml": "yaml"}
OUR_OWN = {"megatron", "tools", "benchmarks"}
SETUP = runpy.run_path(str(ROOT / "setup.py"), run_name="described")


def pinned(file: str) -> dict[str, list[Requirement]]:
    """The requirements of a pip file by name; one name may stand there once per Python version."""
    lines = (line.split("#")[0].strip() for line in (ROOT / file).read_text().splitlines())
    by_name: dict[str, list[Requirement]] = {}
    for requirement in map(Requirement, filter(None, lines)):
        by_name.setdefault(requirement.name, []).append(requirement)
    return by_name


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()  # setuptools writes beside what it builds
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "megatron", source / "megatron", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    built = subprocess.run(
        [*command, "--wheel-dir", str(folder), str(source)], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_our_package_alone_with_its_licence(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    code = [name for name in names if ".dist-info/" not in name]
    assert all(name.startswith("megatron/seq1f1b/") for name in code), code
    assert {"megatron/seq1f1b/__init__.py", "megatron/seq1f1b/py.typed"} <= set(code)
    assert any(name.endswith("LICENSE") for name in names)


def test_every_module_is_in_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "megatron").rglob("*.py")}
    assert modules <= names


def test_the_installed_wheel_stands_beside_megatron_core(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "clean", with_pip=False)
    python = tmp_path / "clean" / "bin" / "python"
    target = run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], tmp_path)
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", target]
    run([*install, wheel], tmp_path)
    lent = metadata.distribution("megatron-core").locate_file("")  # with torch beside it
    (Path(target) / "beside.pth").write_text(f"{lent}\n")
    code = (
        "import megatron.seq1f1b.schedule, megatron.core.parallel_state as core;"
        "print(megatron.seq1f1b.__file__); print(core.__file__)"
    )
    first, second = run([python, "-W", "ignore", "-c", code], tmp_path).splitlines()
    assert first.startswith(target)
    assert second.startswith(str(lent))


@pytest.mark.slow
def test_a_clean_environment_trains_with_both_packages_and_loses_ours_alone(
    wheel: Path, tmp_path: Path
) -> None:
    """Megatron-Core comes from the index; torch and what else is large is lent."""
    venv.create(tmp_path / "clean", with_pip=True)
    python = tmp_path / "clean" / "bin" / "python"
    (core,) = pinned("requirements.txt")["megatron-core"]
    run([python, "-m", "pip", "install", "--no-deps", core, wheel], tmp_path)
    packages = Path(run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], tmp_path))
    assert sorted(each.name for each in (packages / "megatron").iterdir()) == ["core", "seq1f1b"]
    lent = metadata.distribution("torch").locate_file("")
    (packages / "lent.pth").write_text(f"{lent}\n")
    script = ROOT / "examples" / "megatron_core_script" / "on_cpu.py"
    torchrun = ["-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    page = (ROOT / "docs" / "embedding.md").read_text()
    for name in ("stock.py", "chunked.py"):
        assert run([python, *torchrun, script, name], tmp_path) in page
    run([python, "-m", "pip", "uninstall", "--yes", "megatron-seq1f1b"], tmp_path)
    assert [each.name for each in (packages / "megatron").iterdir()] == ["core"]


def run(command: list[object], cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    completed = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return completed.stdout.strip()


@pytest.mark.parametrize(
    ("file", "ranges"),
    [("requirements.txt", SETUP["REQUIREMENTS"]), ("tests/requirements.txt", SETUP["EXTRAS"]["dev"])],
)
def test_what_is_pinned_lies_in_the_ranges(file: str, ranges: list[str]) -> None:
    pins = pinned(file)
    wanted = {requirement.name: requirement for requirement in map(Requirement, ranges)}
    assert set(pins) == set(wanted)
    for name, alternatives in pins.items():
        for pin in alternatives:
            (specifier,) = pin.specifier
            assert specifier.operator == "==", f"{file}: {pin} is not a pin"
            assert wanted[name].specifier.contains(specifier.version), f"{file}: {pin}, {wanted[name]}"


def test_the_pinned_megatron_core_is_one_that_the_code_supports() -> None:
    (pin,) = pinned("requirements.txt")["megatron-core"]
    assert any(pin.specifier.contains(known) for known in upstream_version.SUPPORTED_MEGATRON_CORE)


def test_every_outside_import_is_a_stated_requirement() -> None:
    stated = [*SETUP["REQUIREMENTS"], *(each for extra in SETUP["EXTRAS"].values() for each in extra)]
    names = [Requirement(each).name for each in stated]
    known = {IMPORTED_AS.get(name, name.replace("-", "_")) for name in names} | OUR_OWN
    files = [*(ROOT / "megatron").rglob("*.py"), *(ROOT / "tools").rglob("*.py"), ROOT / "pretrain_gpt.py"]
    imported = {name for path in files for name in top_level_imports(path)}
    assert imported - known - set(sys.stdlib_module_names) == set()


def top_level_imports(path: Path) -> set[str]:
    """The packages that a file names in its import statements, wherever they stand."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names.add(node.module.split(".")[0])
    return names


def test_the_licence_is_apache_2() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
