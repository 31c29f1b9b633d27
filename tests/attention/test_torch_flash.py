"""The CUDA backend's bookkeeping, with its two kernels replaced by plain math of their contract.

What only a GPU can show, the kernels themselves, is in `tests/gpu/test_attention.py`. The stand-ins
take the kernels' own layout and align causal masks and windows to the last key.
"""

from __future__ import annotations

import pytest
import torch

from megatron.seq1f1b.attention import DocumentStarts
from megatron.seq1f1b.attention.backends import torch_flash
from megatron.seq1f1b.attention.backends.torch_flash import TorchFlashBackend
from tests.attention.problem import assert_close, chunked, exact, make_problem


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, window: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Lower-right causal attention of "batch rows heads head_dim" tensors."""
    repeat = query.shape[2] // key.shape[2]
    key, value = (rows.repeat_interleave(repeat, 2) for rows in (key, value))
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key) * scale
    offset = key.shape[1] - query.shape[1]
    distance = torch.arange(query.shape[1])[:, None] + offset - torch.arange(key.shape[1])[None, :]
    hidden = distance < 0 if window is None else (distance < 0) | (distance > window)
    scores = scores.masked_fill(hidden, float("-inf"))
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), value), scores.logsumexp(-1)


def forward_kernel(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *positional: object,
    scale: float,
    window_size_left: int | None,
) -> tuple[torch.Tensor, ...]:
    assert positional == (None, None, query.shape[1], key.shape[1], 0.0, True, False)
    return *attend(query, key, value, scale, window_size_left), query, query, query


def backward_kernel(
    grad_output: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    output: torch.Tensor,
    log_sum_exp: torch.Tensor,
    *positional: object,
    scale: float,
    window_size_left: int | None,
) -> tuple[torch.Tensor, ...]:
    assert positional[:6] == (None, None, query.shape[1], key.shape[1], 0.0, True)
    leaves = [rows.detach().requires_grad_() for rows in (query, key, value)]
    with torch.enable_grad():
        again, log_sum_exp_again = attend(*leaves, scale, window_size_left)
    torch.testing.assert_close(output, again.detach())
    torch.testing.assert_close(log_sum_exp, log_sum_exp_again.detach())
    return torch.autograd.grad(again, leaves, grad_output)


@pytest.fixture(autouse=True)
def _served_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TorchFlashBackend, "refusal", lambda *_: None)


@pytest.fixture
def _plain_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_flash, "_forward_kernel", forward_kernel)
    monkeypatch.setattr(torch_flash, "_backward_kernel", backward_kernel)


@pytest.mark.usefixtures("_plain_kernels")
@pytest.mark.parametrize("boundaries", [(0, 37), (0, 20, 31, 37)], ids=["one chunk", "three chunks"])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("window", [None, 0, 5, 36])
@pytest.mark.parametrize(
    "documents", [None, ((0, 7, 25), (0, 7, 25)), ((0, 20, 36), (0, 30))], ids=["plain", "alike", "apart"]
)
def test_equals_an_explicit_mask(
    boundaries: tuple[int, ...], groups: int, window: int | None, documents: DocumentStarts | None
) -> None:
    problem = make_problem(groups=groups, window=window, document_starts=documents)
    assert_close(chunked(problem, boundaries, backend="torch-flash"), exact(problem), tolerance=1e-12)


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("documents", [None, ((0, 20, 36), (0, 30))], ids=["plain", "apart"])
def test_the_real_kernels_take_these_arguments(window: int | None, documents: DocumentStarts | None) -> None:
    """On the meta device torch's own operators check types and answer with shapes."""
    problem = make_problem(
        groups=2, dtype=torch.bfloat16, device="meta", window=window, document_starts=documents
    )
    answer = chunked(problem, (0, 20, 31, 37), backend="torch-flash")
    for name, tensor in answer.items():
        like = problem.query if name == "output" else getattr(problem, name)
        assert (tensor.shape, tensor.dtype) == (like.shape, torch.bfloat16)


@pytest.mark.usefixtures("_plain_kernels")
def test_a_plain_chunk_is_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def count(*arguments: torch.Tensor, **options: float) -> tuple[torch.Tensor, ...]:
        calls.append(arguments[1].shape[1])
        return forward_kernel(*arguments, **options)

    monkeypatch.setattr(torch_flash, "_forward_kernel", count)
    chunked(make_problem(), (0, 20, 31, 37), backend="torch-flash")
    assert calls == [20, 31, 37]
