"""Checkpoints to and from Hugging Face's format: nothing changes on the way, and logits agree."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron.seq1f1b.errors import CheckpointError
from megatron.seq1f1b.training.checkpoint.compatibility import model_of
from megatron.seq1f1b.training.checkpoint.huggingface.convert import run_of
from megatron.seq1f1b.training.checkpoint.huggingface.families import config_of, flags_of
from megatron.seq1f1b.training.checkpoint.huggingface.files import INDEX, read_folder, write_folder
from megatron.seq1f1b.training.checkpoint.tensors import read_tensors
from tests.harness import run_distributed
from tests.training.runs import train

ROOT = Path(__file__).resolve().parents[2]
GPT2 = {
    "model_type": "gpt2",
    "n_layer": 2,
    "n_embd": 32,
    "n_head": 4,
    "n_positions": 64,
    "vocab_size": 100,
    "activation_function": "gelu_new",
}
LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "vocab_size": 100,
    "rms_norm_eps": 1e-6,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
}

LLAMA_31 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def tensors_of(config: dict[str, object]) -> dict[str, torch.Tensor]:
    """Random weights under the names, and in the shapes, that Hugging Face gives them."""
    draw = torch.Generator().manual_seed(1)

    def weights(**shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
        return {
            f"{name.replace('__', '.')}.weight": torch.randn(shape, generator=draw) / 4
            for name, shape in shapes.items()
        }

    if config["model_type"] == "llama":
        tensors = weights(model__embed_tokens=(100, 32), model__norm=(32,), lm_head=(100, 32))
        for index in range(2):
            layer = weights(
                input_layernorm=(32,),
                self_attn__q_proj=(32, 32),
                self_attn__k_proj=(16, 32),
                self_attn__v_proj=(16, 32),
                self_attn__o_proj=(32, 32),
                post_attention_layernorm=(32,),
                mlp__gate_proj=(48, 32),
                mlp__up_proj=(48, 32),
                mlp__down_proj=(32, 48),
            )
            tensors |= {f"model.layers.{index}.{name}": value for name, value in layer.items()}
        return tensors
    tensors = {
        f"transformer.{name}": value
        for name, value in weights(wte=(100, 32), wpe=(64, 32), ln_f=(32,)).items()
    }
    tensors["transformer.ln_f.bias"] = torch.randn(32, generator=draw)
    for index in range(2):
        layer = weights(
            ln_1=(32,),
            attn__c_attn=(32, 96),
            attn__c_proj=(32, 32),
            ln_2=(32,),
            mlp__c_fc=(32, 128),
            mlp__c_proj=(128, 32),
        )
        for name, value in layer.items():
            tensors[f"transformer.h.{index}.{name}"] = value
            bias = name.replace("weight", "bias")
            tensors[f"transformer.h.{index}.{bias}"] = torch.randn(value.shape[-1], generator=draw) / 4
    return tensors


def there_and_back(source: str, save: str, output: str) -> None:
    """From Hugging Face's format and to it again, in two files and more."""
    from megatron.seq1f1b.training.checkpoint.huggingface import convert
    from megatron.seq1f1b.training.checkpoint.integrity import find_sound

    convert.from_hugging_face(Path(source), Path(save))
    convert.to_hugging_face(*find_sound(Path(save)), Path(output), max_bytes=40_000)


@pytest.mark.parametrize("config", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_there_and_back_is_bit_for_bit(config: dict[str, object], tmp_path: Path) -> None:
    source, save, output = (tmp_path / name for name in ("source", "save", "output"))
    write_folder(source, config, tensors_of(config), max_bytes=10**9)
    run_distributed(there_and_back, 1, str(source), str(save), str(output))
    assert (output / INDEX).exists(), "large models come in several files"
    expected, found = read_folder(source), read_folder(output)
    assert found[1].keys() == expected[1].keys()
    for name, tensor in expected[1].items():
        assert torch.equal(tensor, found[1][name]), name
    assert {name: found[0].get(name) for name in config if name != "max_position_embeddings"} == {
        name: value for name, value in config.items() if name != "max_position_embeddings"
    }
    ours = read_tensors(save / "iter_0000000")
    assert ours["embedding.word_embeddings.weight"].shape == (128, 32)
    assert not ours["embedding.word_embeddings.weight"][100:].any()


def test_a_converted_model_trains_under_any_layout(tmp_path: Path) -> None:
    """The vocabulary is padded to 128 rows there and to 256 here."""
    source, save = tmp_path / "source", tmp_path / "save"
    write_folder(source, LLAMA, tensors_of(LLAMA), max_bytes=10**9)
    run_distributed(there_and_back, 1, str(source), str(save), str(tmp_path / "output"))
    model = " ".join(flags_of(LLAMA)).replace("--seq-length 64", "")
    losses = []
    for size in (1, 2):
        flags = f"--load {save} --tensor-model-parallel-size {size} --train-iters 1 --global-batch-size 2"
        run = tmp_path / f"run{size}"
        run_distributed(train, size, f"{model} {flags}", str(run))
        losses.append(json.loads((run / "metrics.jsonl").read_text())["lm_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("place", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize(
    ("rule", "flags"),
    [
        (LLAMA_31, "--use-rope-scaling --rope-scaling-factor 32.0"),
        ({"rope_type": "linear", "factor": 4.0}, "--rotary-seq-len-interpolation-factor 4.0"),
    ],
)
def test_stretched_rotary_periods_are_converted(rule: dict[str, object], flags: str, place: str) -> None:
    assert flags in " ".join(flags_of({**LLAMA, place: rule}))
    run = run_of({**LLAMA, place: rule})
    assert config_of(model_of(run), asdict(run.config.model))["rope_scaling"] == rule


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "opt"}, "model_type opt is not converted; gpt2 and llama are"),
        (
            {"rope_scaling": {"type": "yarn"}},
            "rope_type yarn has no counterpart here; default, linear and llama3",
        ),
        ({"rope_scaling": {"rope_type": "llama3"}}, "rope_type llama3 has no factor in config.json"),
        (
            {"rope_parameters": {**LLAMA_31, "low_freq_factor": 2.0}},
            "low_freq_factor 2.0 of rope_type llama3 has no counterpart here; 1.0 has",
        ),
        ({"attention_bias": True}, "attention_bias True has no counterpart here; False has"),
    ],
)
def test_models_without_a_counterpart_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        flags_of({**LLAMA, **change})


def test_a_checkpoint_without_a_counterpart_is_refused() -> None:
    model = {
        "--position-embedding-type": "rope",
        "--swiglu": False,
        "--normalization": "RMSNorm",
        "--qk-layernorm": True,
        "--disable-bias-linear": True,
        "--add-qkv-bias": False,
        "--rotary-percent": 1.0,
    }
    with pytest.raises(CheckpointError, match="--swiglu is False, llama has True; --qk-layernorm is True"):
        config_of(model, {})


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no whole model"):
        read_folder(tmp_path)
    write_folder(tmp_path, LLAMA, tensors_of(LLAMA), max_bytes=10**9)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    command = [sys.executable, str(ROOT / "tools" / "convert_checkpoint.py"), "from-hf"]
    done = subprocess.run(
        [*command, "--input", str(tmp_path), "--save", str(tmp_path / "save")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "model.norm.weight is missing" in done.stderr


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs transformers (extra hf)")
@pytest.mark.parametrize("config", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_logits_agree_with_transformers(config: dict[str, object], tmp_path: Path) -> None:
    write_folder(tmp_path / "source", config, tensors_of(config), max_bytes=10**9)
    command = [sys.executable, str(ROOT / "tools" / "convert_checkpoint.py")]
    source, save, output = (str(tmp_path / name) for name in ("source", "save", "output"))
    for arguments in (
        ["from-hf", "--input", source, "--save", save],
        ["to-hf", "--load", save, "--output", output],
    ):
        done = subprocess.run(
            [*command, *arguments, "--check-logits", "--tolerance", "1e-4"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        print(done.stdout.splitlines()[-1])
