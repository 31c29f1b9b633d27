"""The choice of a backend: what serves, what is refused, and what the refusal names."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from megatron.seq1f1b.attention import BACKEND_NAMES, choose_backend
from megatron.seq1f1b.errors import BackendError


def choose(name: str, *, device: str = "cpu", dtype: torch.dtype = torch.float32, **needs: object) -> str:
    return choose_backend(name, device=device, dtype=dtype, **{"head_dim": 64, **needs}).name


def test_auto_on_cpu_is_the_cpu_kernels() -> None:
    assert choose("auto") == "cpu"


@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_a_name_is_taken_at_its_word(name: str) -> None:
    assert choose(name, window=32, has_documents=True, deterministic=True) == name


def test_an_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(BackendError, match="no attention backend 'flsh'; there are auto, torch-flash, cpu"):
        choose("flsh")


@pytest.mark.parametrize("name", ["flash-attn", "flash-attn-3", "transformer-engine"])
def test_untested_kernels_are_refused_by_name(name: str) -> None:
    assert name not in BACKEND_NAMES
    with pytest.raises(BackendError, match=f"{name!r} cannot serve this run: .*use 'cpu'"):
        choose(name)


@pytest.mark.parametrize("name", ["auto", "cpu", "reference"])
def test_dropout_is_refused(name: str) -> None:
    with pytest.raises(BackendError, match="dropout"):
        choose(name, dropout=0.1)


def test_cpu_kernels_refuse_another_device() -> None:
    with pytest.raises(BackendError, match="'cpu' cannot serve this run: its kernels run on CPU tensors"):
        choose("cpu", device="cuda")


def test_auto_never_falls_back_to_plain_math() -> None:
    with pytest.raises(BackendError, match=r"torch-flash: .*not torch.float32; .*use 'reference'"):
        choose("auto", device="cuda")


@pytest.mark.parametrize(
    ("needs", "names"),
    [
        ({"dtype": torch.float32}, "not torch.float32"),
        ({"head_dim": 100}, "head dim 100 is not a multiple of 8"),
        ({"head_dim": 512}, "head dim 512"),
        ({"deterministic": True}, "use_deterministic_algorithms"),
    ],
)
def test_torch_flash_says_what_it_cannot_serve(needs: dict[str, object], names: str) -> None:
    with pytest.raises(BackendError, match=names):
        choose("torch-flash", **({"device": "cuda", "dtype": torch.bfloat16} | needs))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_torch_flash_without_a_device() -> None:
    with pytest.raises(BackendError, match="there is no CUDA device; use 'reference'"):
        choose("torch-flash", device="cuda", dtype=torch.bfloat16)


def test_importing_attention_imports_no_optional_package() -> None:
    script = (
        "import sys, warnings; warnings.simplefilter('ignore')\n"
        "import megatron.core.transformer; before = set(sys.modules)\n"
        "import megatron.seq1f1b.attention\n"
        "print(sorted({'flash_attn', 'transformer_engine'} & (set(sys.modules) - before)))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
