"""A stock Megatron-Core script and the same with the two-line change compute the same."""

from __future__ import annotations

import difflib
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel

from tests.harness import run_distributed

SCRIPTS = Path(__file__).resolve().parents[2] / "examples" / "megatron_core_script"
Result = tuple[list[float], dict[str, torch.Tensor]]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def train_both() -> list[Result]:
    """The stock script, then the changed one, in the same processes."""
    return [_train("stock"), _train("chunked")]


def _train(name: str) -> Result:
    """Losses of every step, and this stage's gradients of the last."""
    script = load(name)
    parallel_state.initialize_model_parallel(pipeline_model_parallel_size=dist.get_world_size())
    tensor_parallel.model_parallel_cuda_manual_seed(1234)
    torch.manual_seed(1234)
    models = []
    build_model = script.build_model
    script.build_model = lambda: models.append(build_model()) or models[0]  # type: ignore[func-returns-value]
    losses = script.train()
    parallel_state.destroy_model_parallel()
    return losses, {name: p.main_grad.clone() for name, p in models[0].named_parameters()}


@pytest.mark.parametrize(
    "world_size", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(4, marks=pytest.mark.slow)]
)
def test_losses_and_gradients_are_those_of_the_stock_script(world_size: int) -> None:
    stages = run_distributed(train_both, world_size)
    for (expected, expected_grads), (losses, grads) in stages:
        assert losses == pytest.approx(expected, rel=1e-5)
        assert grads.keys() == expected_grads.keys()
        for name, grad in grads.items():
            difference = (grad - expected_grads[name]).norm() / expected_grads[name].norm().clamp(min=1e-20)
            assert difference <= 1e-5, name
    assert len(stages[-1][1][0]) == 4, "the last stage reports every step"


def test_the_scripts_differ_in_two_lines_and_imports() -> None:
    texts = [(SCRIPTS / f"{name}.py").read_text().split('"""', 2)[2] for name in ("stock", "chunked")]
    lines = difflib.unified_diff(*(text.splitlines() for text in texts), n=0, lineterm="")
    added = [line[1:].strip() for line in lines if line.startswith("+") and not line.startswith("+++")]
    assert [line for line in added if line and "import" not in line] == [
        "spec = chunked_layer_spec(get_gpt_layer_local_spec())",
        "forward_backward_func = seq1f1b_forward_backward(chunks=4)",
    ]
