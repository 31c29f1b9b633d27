"""tools/preprocess_data.py: what it refuses, and what a stopped run leaves behind."""

from __future__ import annotations

import gzip
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import zstandard

from tests.cli.preprocessing import NULL_FLAGS, TOOL, Run, documents_of
from tests.cli.tools import run_script
from tests.data.corpora import write_json_lines

BAD_LINES = {
    "malformed": (b'{"text": "1"', "not JSON"),
    "blank": (b"", "not JSON"),
    "array": (b'["1"]', "expected a JSON object, found an array"),
    "missing key": (b'{"content": "1", "id": 2}', "no key 'text'; the keys of this line are 'content', 'id'"),
    "number": (b'{"text": 1}', "the value of 'text' must be a string, found a number"),
    "null": (b'{"text": null}', "must be a string, found null"),
    "invalid UTF-8": (b'{"text": "\xff"}', "byte 11 of the line is not valid UTF-8"),
    "outside the vocabulary": (b'{"text": "1000"}', "id 1000 is outside 0 to 999"),
    "deep": (b"[" * 100_000, "not usable JSON"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_bad_line_is_refused_with_file_and_number(preprocess: Run, tmp_path: Path, name: str) -> None:
    line, message = BAD_LINES[name]
    (tmp_path / "in.jsonl").write_bytes(b'{"text": "1"}\n' + line + b'\n{"text": "2"}\n')
    status, printed = preprocess("--input", "in.jsonl", "--output-prefix", "out", *NULL_FLAGS)
    assert status == 2
    assert "preprocess_data.py: in.jsonl, line 2: " in printed
    assert message in printed
    assert "--skip-invalid" in printed
    assert "Traceback" not in printed
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


@pytest.mark.parametrize("name", BAD_LINES)
def test_bad_line_is_counted_and_left_out_if_asked(preprocess: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / "in.jsonl").write_bytes(b'{"text": "1"}\n' + BAD_LINES[name][0] + b'\n{"text": "2"}\n')
    status, printed = preprocess(
        "--input", "in.jsonl", "--output-prefix", "out", "--skip-invalid", *NULL_FLAGS
    )
    assert status == 0
    assert "1 lines skipped" in printed
    assert "in.jsonl, line 2" in printed
    assert documents_of("out_text_document") == [[1], [2]]


def test_bad_line_in_a_worker_is_refused_alike(tmp_path: Path) -> None:
    lines = [b'{"text": "1"}\n'] * 100
    lines[41] = b"{}\n"
    lines[77] = b"\n"
    (tmp_path / "in.jsonl").write_bytes(b"".join(lines))
    flags = ["--workers", "3", "--chunk-size", "5", *NULL_FLAGS]
    run = run_script(TOOL, "--input", "in.jsonl", "--output-prefix", "out", *flags, cwd=tmp_path)
    assert run.returncode == 2
    assert "in.jsonl, line 42: no key 'text'; the keys of this line are none" in run.stderr
    assert "Traceback" not in run.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


@pytest.mark.parametrize(
    ("content", "words", "message"),
    [
        (b"", [], "holds no lines"),
        (b"{\n", ["--skip-invalid"], "all 1 lines were skipped, the first: in.jsonl, line 1"),
        (None, [], "--input in.jsonl: no such file"),
        (b'{"text": "1"}', ["--input", "no*.jsonl"], "--input no*.jsonl: no such file"),
        (b'{"text": "1"}', ["--input", "."], "is a folder"),
        (b"{}", ["--input", "in.jsonl", "in.jsonl.gz"], "--input in.jsonl.gz: no such file"),
        (b'{"text": "1"}', ["--tokenizer-type", "GPT2BPETokenizer"], "needs --vocab-file"),
        (b'{"text": "1"}', ["--output-prefix", "in.jsonl/out"], "cannot be written"),
    ],
)
def test_refusals(
    preprocess: Run, tmp_path: Path, content: bytes | None, words: list[str], message: str
) -> None:
    if content is not None:
        (tmp_path / "in.jsonl").write_bytes(content)
    status, printed = preprocess("--input", "in.jsonl", "--output-prefix", "out", *NULL_FLAGS, *words)
    assert status == 2
    assert message in printed
    assert "Traceback" not in printed
    assert {path.name for path in tmp_path.iterdir()} <= {"in.jsonl"}


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_compressed_file_cut_short_is_refused(preprocess: Run, tmp_path: Path, suffix: str) -> None:
    raw = b"".join(b'{"text": "%d"}\n' % number for number in range(1000))
    packed = gzip.compress(raw) if suffix == ".gz" else zstandard.ZstdCompressor().compress(raw)
    (tmp_path / f"in{suffix}").write_bytes(packed[: len(packed) // 2])
    status, printed = preprocess("--input", f"in{suffix}", "--output-prefix", "out", *NULL_FLAGS)
    assert status == 2
    assert f"in{suffix}" in printed
    assert [path.name for path in tmp_path.iterdir()] == [f"in{suffix}"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--workers", "0"], "0 is below 1"),
        (["--dataset-impl", "lazy"], "invalid choice: 'lazy'"),
        (["--tokenizer-type", "None"], "invalid choice: 'None'"),
        (["--out", "x"], "unrecognized arguments: --out x"),
    ],
)
def test_usage_errors_exit_with_2(preprocess: Run, words: list[str], message: str) -> None:
    status, printed = preprocess("--input", "in.jsonl", "--output-prefix", "out", *NULL_FLAGS, *words)
    assert status == 2
    assert message in printed


def limit_file_size() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))


@pytest.mark.parametrize("workers", ["1", "2"])
def test_full_disk_leaves_the_earlier_pair(tmp_path: Path, workers: str) -> None:
    write_json_lines(tmp_path / "in.jsonl", [{"text": " ".join(["7"] * 1000)}] * 100)
    (tmp_path / "out_text_document.bin").write_text("earlier")
    flags = ["--workers", workers, *NULL_FLAGS]
    words = ("--input", "in.jsonl", "--output-prefix", "out", *flags)
    run = run_script(TOOL, *words, cwd=tmp_path, preexec_fn=limit_file_size)
    assert run.returncode == 2
    assert "cannot be written: File too large" in run.stderr
    assert "Traceback" not in run.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out_text_document.bin"]
    assert (tmp_path / "out_text_document.bin").read_text() == "earlier"


@contextmanager
def waiting_run(folder: Path, *, workers: str) -> Iterator[subprocess.Popen[str]]:
    """A run in a process group of its own that has begun and waits for more input."""
    command = [sys.executable, str(TOOL), "--input", "-", "--output-prefix", "out", "--workers", workers]
    with subprocess.Popen(
        [*command, "--chunk-size", "1", *NULL_FLAGS],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write('{"text": "1"}\n' * 2000)
        process.stdin.flush()
        process.stderr.read(1)  # the progress bar is there
        assert list(folder.glob("*.partial"))
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_interrupted_run_leaves_nothing(
    tmp_path: Path, number: signal.Signals, status: int, workers: str
) -> None:
    with waiting_run(tmp_path, workers=workers) as process:
        os.killpg(process.pid, number)
        _, printed = process.communicate(timeout=60)
    assert process.returncode == status
    assert "nothing was written" in printed
    assert "Traceback" not in printed
    assert list(tmp_path.iterdir()) == []


def test_killed_run_leaves_no_process_and_no_pair(tmp_path: Path) -> None:
    with waiting_run(tmp_path, workers="3") as process:
        process.kill()
        process.communicate(timeout=60)  # ends when the last worker has closed the pipe
    assert not list(tmp_path.glob("*.bin"))
    write_json_lines(tmp_path / "in.jsonl", [{"text": "1"}])
    command = [sys.executable, str(TOOL), "--input", "in.jsonl", "--output-prefix", "out", *NULL_FLAGS]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "in.jsonl",
        "out_text_document.bin",
        "out_text_document.idx",
    ]
