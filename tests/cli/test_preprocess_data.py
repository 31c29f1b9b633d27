"""tools/preprocess_data.py: the published command and its options."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nltk
import pytest
import zstandard
from nltk.tokenize import punkt

from megatron.seq1f1b.data import build_tokenizer
from megatron.seq1f1b.data.indexed import IndexedFiles
from tests.cli.preprocessing import BPE_FLAGS, NULL_FLAGS, TOOL, Run, documents_of
from tests.cli.tools import run_script
from tests.data.corpora import END, MERGE_FILE, VECTOR_BIN, VECTOR_IDX, VOCAB_FILE, write_json_lines

TEXTS = ["", "def f():\n\treturn 1\n", "日本 🙂 \x00\x1f", "it's", "", " ", "x" * 20_000, "\ud800"]


def bpe_documents(texts: Sequence[str]) -> list[list[int]]:
    tokenizer = build_tokenizer("GPT2BPETokenizer", vocab_file=VOCAB_FILE, merge_file=MERGE_FILE)
    return [[*tokenizer.tokenize(text), END] if text else [] for text in texts]


def test_published_command_from_another_folder(tmp_path: Path) -> None:
    records = [{"content": text, "copies": "1"} for text in TEXTS]
    write_json_lines(tmp_path / "codeparrot_data.json", records)
    for source, name in ((VOCAB_FILE, "vocab.json"), (MERGE_FILE, "merges.txt")):
        (tmp_path / name).write_bytes(source.read_bytes())
    command = (
        "--input codeparrot_data.json --output-prefix codeparrot --vocab vocab.json --dataset-impl mmap "
        "--tokenizer-type GPT2BPETokenizer --merge-file merges.txt --json-keys content --workers 32 "
        "--chunk-size 25 --append-eod"
    )
    run = run_script(TOOL, *command.split(), cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "8 documents" in run.stdout
    assert "0 lines skipped" in run.stdout
    assert documents_of(tmp_path / "codeparrot_content_document") == bpe_documents(TEXTS)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "codeparrot_content_document.bin",
        "codeparrot_content_document.idx",
        "codeparrot_data.json",
        "merges.txt",
        "vocab.json",
    ]


def test_bytes_of_the_published_vector(preprocess: Run, tmp_path: Path) -> None:
    write_json_lines(tmp_path / "in.jsonl", [{"text": "5 6 7"}, {"text": "1"}])
    flags = ["--tokenizer-type", "NullTokenizer", "--vocab-size", "50256", "--append-eod"]
    status, _ = preprocess("--input", "in.jsonl", "--output-prefix", "out", *flags)
    assert status == 0
    assert (tmp_path / "out_text_document.bin").read_bytes().hex() == VECTOR_BIN
    assert (tmp_path / "out_text_document.idx").read_bytes().hex() == VECTOR_IDX


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("chunk_size", [1, 7, 1000])
def test_order_is_that_of_the_input(tmp_path: Path, workers: int, chunk_size: int) -> None:
    numbers = [str(number) for number in range(200)]
    write_json_lines(tmp_path / "in.jsonl", [{"text": number} for number in numbers])
    flags = ["--workers", str(workers), "--chunk-size", str(chunk_size), *NULL_FLAGS]
    run_script(TOOL, "--input", "in.jsonl", "--output-prefix", "out", *flags, cwd=tmp_path)
    assert documents_of(tmp_path / "out_text_document") == [[number] for number in range(200)]


def test_several_keys_make_a_pair_each(preprocess: Run, tmp_path: Path) -> None:
    write_json_lines(tmp_path / "in.jsonl", [{"a": "1 2", "b": ""}, {"b": "3", "a": "4"}])
    status, printed = preprocess(
        "--input", "in.jsonl", "--output-prefix", "out", "--json-keys", "a", "b", "--append-eod", *NULL_FLAGS
    )
    assert status == 0
    assert documents_of("out_a_document") == [[1, 2, 1000], [4, 1000]]
    assert documents_of("out_b_document") == [[], [3, 1000]]
    assert "out_a_document: 5 tokens" in printed


def test_without_append_eod_documents_have_their_own_ids_only(preprocess: Run, tmp_path: Path) -> None:
    write_json_lines(tmp_path / "in.jsonl", [{"text": "1 2"}])
    assert preprocess("--input", "in.jsonl", "--output-prefix", "out", *NULL_FLAGS)[0] == 0
    assert documents_of("out_text_document") == [[1, 2]]


def test_large_vocabulary_is_written_as_int32(preprocess: Run, tmp_path: Path) -> None:
    write_json_lines(tmp_path / "in.jsonl", [{"text": "70000"}])
    flags = ["--tokenizer-type", "NullTokenizer", "--vocab-size", "100000"]
    assert preprocess("--input", "in.jsonl", "--output-prefix", "out", *flags)[0] == 0
    assert IndexedFiles("out_text_document").header.dtype.name == "int32"
    assert documents_of("out_text_document") == [[70000]]


def test_patterns_and_compressed_files_in_their_order(preprocess: Run, tmp_path: Path) -> None:
    lines = [json.dumps({"text": str(number)}).encode() + b"\n" for number in range(6)]
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + lines[0] + lines[1])
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines[2]) + gzip.compress(lines[3]))
    frames = [zstandard.ZstdCompressor().compress(line) for line in lines[4:]]
    (tmp_path / "c.jsonl.zst").write_bytes(b"".join(frames).rstrip(b"\n"))
    assert preprocess("--input", "*.jsonl*", "--output-prefix", "out", *NULL_FLAGS)[0] == 0
    assert documents_of("out_text_document") == [[number] for number in range(6)]
    assert preprocess("--input", "c.jsonl.zst", "a.jsonl", "--output-prefix", "out", *NULL_FLAGS)[0] == 0
    assert documents_of("out_text_document") == [[4], [5], [0], [1]]


def test_standard_input(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(TOOL),
        "--input",
        "-",
        "--output-prefix",
        str(tmp_path / "out"),
        *NULL_FLAGS,
    ]
    subprocess.run(command, input=b'{"text": "1"}\n{"text": "2"}', check=True, capture_output=True)
    assert documents_of(tmp_path / "out_text_document") == [[1], [2]]


def test_partitions_deal_lines_out_as_megatron_does(preprocess: Run, tmp_path: Path) -> None:
    write_json_lines(tmp_path / "a.jsonl", [{"text": str(number)} for number in range(4)])
    write_json_lines(tmp_path / "b.jsonl", [{"text": str(number)} for number in range(4, 8)])
    words = ["--input", "?.jsonl", "--output-prefix", "out", "--partitions", "3", "--chunk-size", "1"]
    assert preprocess(*words, *NULL_FLAGS)[0] == 0
    assert documents_of("out_text_document") == [[n] for n in (0, 3, 6, 1, 4, 7, 2, 5)]
    assert preprocess(*words, "--keep-sequential-samples", *NULL_FLAGS)[0] == 0
    assert documents_of("out_text_document") == [[n] for n in range(8)]
    status, printed = preprocess("--input", "-", "--output-prefix", "out", "--partitions", "2", *NULL_FLAGS)
    assert status == 2
    assert "--keep-sequential-samples" in printed


@pytest.fixture
def punkt_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Punkt model without a download."""
    folder = tmp_path / "nltk" / "tokenizers" / "punkt_tab" / "english"
    folder.mkdir(parents=True)
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "nltk")])
    punkt.save_punkt_params(punkt.PunktParameters(), dir=str(folder))


@pytest.mark.usefixtures("punkt_model")
@pytest.mark.parametrize(
    ("keep_newlines", "sentences"),
    [(False, ["One two.", "Three!", "Four"]), (True, ["One two.\n\n", "Three! ", "Four\n"])],
)
def test_split_sentences(preprocess: Run, tmp_path: Path, keep_newlines: bool, sentences: list[str]) -> None:
    write_json_lines(tmp_path / "in.jsonl", [{"text": "One two.\n\nThree! Four\n"}, {"text": ""}])
    flags = ["--split-sentences", "--append-eod", *["--keep-newlines"] * keep_newlines, *BPE_FLAGS]
    assert preprocess("--input", "in.jsonl", "--output-prefix", "out", *flags)[0] == 0
    files = IndexedFiles("out_text_sentence")
    assert files.documents.tolist() == [0, 3, 3]
    tokenizer = build_tokenizer("GPT2BPETokenizer", vocab_file=VOCAB_FILE, merge_file=MERGE_FILE)
    lengths = [len(tokenizer.tokenize(sentence)) for sentence in sentences]
    lengths[-1] += 1
    assert files.lengths.tolist() == lengths
    assert tokenizer.detokenize(files.document(0)[:-1].tolist()) == "".join(sentences)
    assert files.document(0)[-1] == END


def test_split_sentences_without_its_model_says_how_to_get_it(
    preprocess: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    write_json_lines(tmp_path / "in.jsonl", [{"text": "1"}])
    status, printed = preprocess(
        "--input", "in.jsonl", "--output-prefix", "out", "--split-sentences", *NULL_FLAGS
    )
    assert status == 2
    assert "python -m nltk.downloader punkt_tab" in printed


@pytest.mark.slow
def test_memory_does_not_grow_with_the_input(tmp_path: Path) -> None:
    """The peak of the tool and its workers, for an input and one ten times larger."""

    def peak_bytes(num_lines: int) -> int:
        with (tmp_path / "in.jsonl").open("w") as stream:
            line = json.dumps({"text": "some text of a document, " * 40}) + "\n"
            stream.writelines([line] * num_lines)
        words = ["--input", "in.jsonl", "--output-prefix", "out", "--workers", "2", *map(str, BPE_FLAGS)]
        code = (
            "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)"
        )
        run = subprocess.run(
            [sys.executable, "-c", code, sys.executable, str(TOOL), *words],
            cwd=tmp_path,
            check=True,
            capture_output=True,
            text=True,
        )
        return int(run.stdout.splitlines()[-1])

    assert peak_bytes(200_000) < 1.1 * peak_bytes(20_000) + 10e6
