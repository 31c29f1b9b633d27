"""Options from files: the command line wins, and what cannot be meant is named with its line."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

import pretrain_gpt
from megatron.seq1f1b.config import parse_arguments, with_config_files
from megatron.seq1f1b.errors import ConfigurationError
from tests.config.flags import SMALL, words

YAML = """\
# A comment.
num-layers: 8
hidden_size: 32
num-attention-heads: 4
training:
  seq-length: 64
  micro_batch_size: 1
  global-batch-size: 8
  train-iters: 4
optimizer: {lr: 1e-3}
data:
  mock-data: true
  tokenizer-type: NullTokenizer
  vocab-size: 127
pipeline-model-parallel-size: 2
pipe-sp-splits: 4
"""


def written(folder: Path, text: str, name: str = "run.yaml") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def test_a_file_says_what_flags_say(tmp_path: Path) -> None:
    assert parse_arguments(["--config", written(tmp_path, YAML)]) == parse_arguments(words())


def test_the_command_line_wins_and_later_files_before_it(tmp_path: Path) -> None:
    first = written(tmp_path, YAML)
    second = written(tmp_path, "lr: 0.5\nseq_length: 128\nno-save-optim: false\nswiglu: true\n", "more.yml")
    config = parse_arguments(["--seq-length", "256", "--no-swiglu", "--config", first, second])
    assert (config.optimizer.lr, config.training.seq_length, config.model.swiglu) == (0.5, 256, False)
    assert parse_arguments([f"--config={first}", f"--config={second}"]).training.seq_length == 128


def test_lists_nulls_and_megatron_flags(tmp_path: Path) -> None:
    text = "data_path: [0.5, one, 0.5, two]\nsave: null\nmock-data: false\nuse-flash-attn: true\n"
    arguments = with_config_files([*words(), "--config", written(tmp_path, text)])
    assert arguments[:6] == ["--data-path", "0.5", "one", "0.5", "two", "--no-mock-data"]
    assert "--use-flash-attn" in arguments


def test_json_is_read_as_well(tmp_path: Path) -> None:
    text = '{\n\t"optimizer": {"lr": 1e-05, "optimizer": "adam"},\n\t"train_iters": 7\n}'
    config = parse_arguments([*SMALL.split()[:-4], "--config", written(tmp_path, text, "run.json")])
    assert config.training.train_iters == 4
    assert "--lr=1e-05" in with_config_files(["--config", str(tmp_path / "run.json")])


def test_a_resolved_configuration_is_a_file(tmp_path: Path) -> None:
    config = parse_arguments(words("--bf16 --data-path --recompute-granularity selective --eod-mask-loss"))
    resolved = {"options": asdict(config), "layout": {"schedule": "seq1f1b", "num_layers": 3}}
    path = written(tmp_path, json.dumps(resolved, indent=2), "config.json")
    assert parse_arguments(["--config", path]) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "num-layers: 8\nnum_layerz: 8\n",
            "run.yaml:2: there is no option num_layerz; did you mean num_layers?",
        ),
        ("training:\n  seq-length: long\n", "run.yaml:2: --seq-length: invalid int value: 'long'"),
        ("bf16: 7\n", "run.yaml:1: bf16 is true or false, not 7"),
        ("normalization: Norm\n", "choose from"),
        ("lr: [1, 2]\n", "run.yaml:1: lr takes one value, not a list"),
        ("trainig: {lr: 1}\n", "run.yaml:1: trainig is no section; there are model, "),
        ("lr: 1\nmin-lr: 0\nlr: 2\n", "run.yaml:3: lr stands in line 1 already"),
        ("lr: {\n", "run.yaml is no YAML or JSON"),
        ("- lr\n", "run.yaml must hold keys and values"),
        ("config: other.yaml\n", "run.yaml:1: there is no option config"),
    ],
)
def test_refusals_name_file_and_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        parse_arguments(["--config", written(tmp_path, text)])
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("arguments", "message"), [(["--config"], "needs the name"), (["--config", "no"], "no")]
)
def test_a_file_that_is_not_there(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RANK", "0")
    assert pretrain_gpt.main([*words(), *arguments]) == 2
    assert message in capsys.readouterr().err
