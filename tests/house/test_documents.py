"""What README and manual say is so: commands run, flags and files exist, pictures are current."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.house.commands import DOCUMENTS, ROOT, commands_of, flags_of, run_command, workspace
from tools.make_docs import generated
from tools.manual.results import Result, section

TINY_MODEL = "--num-layers 4 --hidden-size 64 --num-attention-heads 4 --seq-length 128"
TINY_RUN = f"{TINY_MODEL} --global-batch-size 2 --train-iters 2 --log-interval 1 --run-dir run"

RUN_ELSEWHERE = {
    "bash exp.sh": "tests/house/test_exp.py",
    "bash tests/run.sh": "this very run",
    **{
        f"torchrun --standalone --nproc_per_node 2 examples/megatron_core_script/on_cpu.py {name}.py": (
            "tests/house/test_packaging.py"
        )
        for name in ("stock", "chunked")
    },
    "bash tests/run.sh --all": "this very run",
    "bash tests/run.sh tests/harness -k hang": "this very run",
}

OF_OTHERS = frozenset({"--all", "--index-url", "--standalone", "--nproc_per_node"})
"""Flags of tests/run.sh, pip and torchrun."""


def documented(start: str, document: str = "README.md") -> str:
    """The one command of a document that starts so."""
    (command,) = (each for each in commands_of(document) if each.startswith(start))
    return command


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the README's data commands have been run, on less text."""
    folder = workspace(tmp_path_factory.mktemp("reader's folder"))
    run_command(documented("python tools/make_sample_corpus.py"), cwd=folder, more="--megabytes 1")
    run_command(documented("python tools/train_tokenizer.py"), cwd=folder, more="--vocab-size 512")
    run_command(documented("python tools/preprocess_data.py"), cwd=folder)
    return folder


def test_the_data_commands_write_token_files(prepared: Path) -> None:
    assert (prepared / "corpus_content_document.bin").stat().st_size > 100_000
    assert (prepared / "corpus_content_document.idx").exists()


def test_the_command_that_trains_without_files_runs_as_it_stands(prepared: Path) -> None:
    command = documented("torchrun --standalone --nproc_per_node 4")
    run_command(command, cwd=prepared, more="--run-dir mock")
    lines = (prepared / "mock" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == [1, 2, 3, 4]
    summary = documented("python tools/summarize_run.py").replace("runs/NAME", "mock")
    assert "trained  4 steps on 8,192 tokens" in run_command(summary, cwd=prepared)


@pytest.mark.slow
def test_the_command_for_eight_gpus_trains_a_smaller_model_on_eight_cpu_processes(prepared: Path) -> None:
    run_command(documented("torchrun --standalone --nproc_per_node 8"), cwd=prepared, more=TINY_RUN)
    assert len((prepared / "run" / "metrics.jsonl").read_text().splitlines()) == 2


def test_the_preprocessing_command_of_the_manual_runs_as_it_stands(prepared: Path) -> None:
    (prepared / "codeparrot_data.json").symlink_to(prepared / "corpus.jsonl")
    for name in ("vocab.json", "merges.txt"):
        (prepared / name).symlink_to(prepared / "tokenizer" / name)
    run_command(documented("python tools/preprocess_data.py", "docs/README.md"), cwd=prepared)
    ours = prepared / "codeparrot_content_document.bin"
    assert ours.read_bytes() == (prepared / "corpus_content_document.bin").read_bytes()


SHOWN = [each for document in DOCUMENTS for each in commands_of(document) if "show_schedule" in each]


@pytest.mark.parametrize("command", SHOWN)
def test_the_schedule_can_be_shown(command: str) -> None:
    assert "bubble" in run_command(command, cwd=ROOT)


def test_the_memory_of_the_manual_s_run_is_estimated() -> None:
    command = documented("python tools/estimate_memory.py", "docs/planning.md")
    assert "most on stage 0: " in run_command(command, cwd=ROOT)


def test_the_manual_s_layouts_are_searched() -> None:
    command = documented("python tools/plan_run.py", "docs/planning.md")
    assert "3. torchrun " in run_command(command, cwd=ROOT)


def test_generated_parts_are_what_their_command_makes() -> None:
    stale = [
        str(path.relative_to(ROOT))
        for path, text in generated().items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]
    assert not stale, "run: python tools/make_docs.py"


def test_a_table_of_figures_has_no_blank_cells_and_keeps_lists_apart() -> None:
    row = {"name": "b", "window": None, "cuts": [[0, 3], [0, 4]]}
    texts = dict.fromkeys(("name", "title", "says", "command", "machine", "day", "label"), "")
    made = section(Result(**texts, columns=["name", "window", "cuts"], bars=[], rows=[{"name": "a"}, row]))
    assert "| a | not measured | not measured |\n| b | none | 0, 3; 0, 4 |" in made


def test_options_from_the_files_of_the_manual(tmp_path: Path) -> None:
    """Its YAML trains, and the run's own config.json trains the same again."""
    folder, text = workspace(tmp_path), (ROOT / "docs/training.md").read_text()
    (example,) = re.findall(r"^```yaml\n(.*?)^```", text, flags=re.M | re.S)
    (folder / "run.yaml").write_text(example)
    run_command(documented("python pretrain_gpt.py --config run.yaml", "docs/training.md"), cwd=folder)
    run_command(
        documented("python pretrain_gpt.py --config first/config.json", "docs/training.md"), cwd=folder
    )
    runs = [
        [json.loads(row)["lm_loss"] for row in (folder / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("first", "second")
    ]
    assert len(runs[0]) == 3
    assert runs[0] == runs[1]


@pytest.mark.slow
def test_a_run_can_be_looked_into(tmp_path: Path) -> None:
    folder, page = workspace(tmp_path), "docs/observing.md"
    printed = run_command(documented("torchrun --standalone --nproc_per_node 2", page), cwd=folder)
    assert "training starts from where it was" in printed
    assert "simulated with the measured times" in printed
    run_command(documented("python pretrain_gpt.py --num-layers 4", page), cwd=folder)
    assert "6 steps in common" in run_command(documented("python tools/compare_losses.py", page), cwd=folder)
    assert {"timeline.json", "timeline.svg"} <= {each.name for each in (folder / "runs/chunks").iterdir()}


@pytest.mark.slow
def test_links_are_measured_and_planned_with(tmp_path: Path) -> None:
    folder, page = workspace(tmp_path), "docs/embedding.md"
    run_command(
        documented("torchrun --standalone --nproc_per_node 4 tools/measure_links.py", page), cwd=folder
    )
    printed = run_command(documented("python tools/plan_run.py", page), cwd=folder)
    assert "links measured, links.json" in printed


def test_the_page_of_flags_is_what_its_command_writes(tmp_path: Path) -> None:
    command = "python tools/list_flags.py --output docs/flags.md"
    assert f"`{command}`" in (ROOT / "docs/flags.md").read_text()
    run_command(command.replace("docs", str(tmp_path)), cwd=ROOT)
    assert (tmp_path / "flags.md").read_text() == (ROOT / "docs/flags.md").read_text(), f"type {command}"


def test_every_command_is_run_by_a_test() -> None:
    source = Path(__file__).read_text()
    starts = re.findall(r'documented\("([^"]+)"', source)
    for document in DOCUMENTS:
        if document == "docs/cluster.md":  # tests/launch/test_cluster_page.py
            continue
        for command in commands_of(document):
            is_run = any(command.startswith(start) for start in starts) or "show_schedule" in command
            assert is_run or command in RUN_ELSEWHERE, f"no test runs {command!r} of {document}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_flag_is_one_that_some_command_has(document: str) -> None:
    text = (ROOT / document).read_text()
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9_-]*", text))
    scripts = {"pretrain_gpt.py", *re.findall(r"(?:tools|benchmarks)/\w+\.py", text)}
    known = OF_OTHERS.union(*map(flags_of, scripts))
    assert named <= known, sorted(named - known)


@pytest.mark.parametrize("document", [*DOCUMENTS, "CHANGELOG.md"])
def test_every_linked_file_exists(document: str) -> None:
    path = ROOT / document
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text())
    missing = [
        target for target in targets if not target.startswith("http") and not (path.parent / target).exists()
    ]
    assert not missing
