"""From a Hugging Face folder and a file of documents to a fine-tuned model, as the launch script says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers

from megatron.seq1f1b.training.checkpoint.huggingface.files import write_folder
from tests.training.test_convert import LLAMA, tensors_of

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "NODES": "1",
    "MASTER_ADDR": "127.0.0.1",  # here, also where there is an sbatch
    "GPUS_PER_NODE": "2",
    "PP_SIZE": "2",
    "TP_SIZE": "1",
    "NUM_LAYERS": "2",
    "HIDDEN_SIZE": "32",
    "NUM_HEADS": "4",
    "PRECISION": "fp32",
    "SEQ_LENGTH": "256",
    "GLOBAL_BATCH": "2",
    "SAVE_INTERVAL": "2",
}
SHAPES = ["--ffn-hidden-size", "48", "--num-query-groups", "2", "--norm-epsilon", "1e-6"]
WORDS = [f"w{number}" for number in range(98)]


def hugging_face_folder(folder: Path) -> Path:
    """A small Llama with its tokenizer, as it would be downloaded."""
    write_folder(folder, LLAMA, tensors_of(LLAMA), max_bytes=10**9)
    vocabulary = {word: number for number, word in enumerate(["<|endoftext|>", "?", *WORDS])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def finetune(folder: Path, train_iter: int) -> str:
    environment = {**os.environ, **SMALL, "PYTHON": sys.executable, "TRAIN_ITER": str(train_iter)}
    environment |= {"CHECKPOINT": "my model", "DATA_PATH": "my_text_document", "SAVE": "tuned"}
    done = subprocess.run(
        ["bash", str(ROOT / "examples/launch/finetune_long_documents.sh"), *SHAPES],
        env={**environment, "RUN_DIR": f"run {train_iter}"},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.slow
def test_documents_tune_a_hugging_face_checkpoint(tmp_path: Path) -> None:
    hugging_face_folder(tmp_path / "my model")
    documents = [" ".join(WORDS[start:] * 5) for start in range(40)]
    (tmp_path / "documents.jsonl").write_text(
        "".join(json.dumps({"text": each}) + "\n" for each in documents)
    )
    prepare = "--input documents.jsonl --output-prefix my --append-eod --tokenizer-type HuggingFaceTokenizer"
    subprocess.run(
        [
            sys.executable,
            f"{ROOT}/tools/preprocess_data.py",
            *prepare.split(),
            "--tokenizer-model",
            "my model",
        ],
        cwd=tmp_path,
        check=True,
    )
    first = finetune(tmp_path, 2)
    assert "converting" in first
    assert "trained  2 steps" in first
    assert (tmp_path / "checkpoints" / "my model" / "latest_checkpointed_iteration.txt").exists()
    again = finetune(tmp_path, 4)
    assert "converting" not in again
    rows = [json.loads(line) for line in (tmp_path / "run 4" / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [3, 4], "it goes on from what it saved"
