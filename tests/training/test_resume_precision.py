"""Optimizers take over the state of one of another precision, or with experts elsewhere: to the last bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.dist_checkpointing import load_common_state_dict

from megatron.seq1f1b.config import parse_arguments
from megatron.seq1f1b.training.build import build
from megatron.seq1f1b.training.checkpoint.load import load_start
from megatron.seq1f1b.training.checkpoint.save import Saver
from megatron.seq1f1b.training.checkpoint.start import find_start
from megatron.seq1f1b.training.checkpoint.tensors import read_tensors
from megatron.seq1f1b.training.distributed import join
from megatron.seq1f1b.training.prepare import prepare
from tests.harness import run_distributed
from tests.parity.layouts import COMMON, GPT2_LIKE
from tests.training.runs import train

BASE = "--global-batch-size 4 --lr 1e-2 --make-vocab-size-divisible-by 16"
PP2 = "--pipeline-model-parallel-size 2 --pipe-sp-splits 2"
TP2 = "--tensor-model-parallel-size 2"
DISTRIBUTED = "--use-distributed-optimizer"
FP16 = "--fp16 --initial-loss-scale 1024"
EXPERTS = "--num-experts 4 --disable-bias-linear"
SHARED = f"{EXPERTS} --expert-model-parallel-size 2"
CASES = {
    "fp32 to bf16": (PP2, f"{PP2} --bf16"),
    "bf16 to fp32": (f"{PP2} --bf16", PP2),
    "fp32 to fp16, tensor": (f"{PP2} --swiglu", f"{TP2} --swiglu {FP16}"),
    "fp16 to fp32, tensor": (f"{TP2} --swiglu {FP16}", f"{PP2} --swiglu"),
    "bf16 to fp16": ("--bf16", FP16),
    "distributed fp32 to bf16": (DISTRIBUTED, f"{DISTRIBUTED} --bf16"),
    "distributed bf16 to fp32": (f"{DISTRIBUTED} --bf16", DISTRIBUTED),
    "distributed bf16 to plain fp32": (f"{DISTRIBUTED} --bf16", TP2),
    "plain fp32 to distributed fp16": (PP2, f"{DISTRIBUTED} {FP16}"),
    "experts shared": (EXPERTS, SHARED),
    "experts whole": (SHARED, EXPERTS),
    "experts shared, distributed": (f"{EXPERTS} {DISTRIBUTED}", f"{SHARED} {DISTRIBUTED}"),
    "experts whole, distributed": (f"{SHARED} {DISTRIBUTED}", f"{EXPERTS} {DISTRIBUTED}"),
    "experts whole, other precision": (f"{SHARED} --bf16", f"{EXPERTS} {DISTRIBUTED}"),
    "experts shared, other precision": (f"{EXPERTS} {DISTRIBUTED}", f"{SHARED} --bf16"),
}
SLOW = [pytest.param(case, marks=pytest.mark.slow) for case in CASES if case != "fp32 to bf16"]
PRECISIONS = {"--bf16": torch.bfloat16, "--fp16": torch.float16}
MASTERS = ("optimizer.state.fp32_param.", "optimizer.state.param.")
MOMENTS = ("optimizer.state.exp_avg.", "optimizer.state.exp_avg_sq.")


def saved_loaded_saved(writer: str, reader: str, folder: str) -> None:
    """Two steps of one run, saved again as another has loaded them, and one step of that."""
    train(f"{BASE} {writer} --train-iters 2 --save {folder}/there", f"{folder}/first")
    flags = f"{BASE} {reader} --train-iters 3 --load {folder}/there --save {folder}/here"
    run = prepare(parse_arguments(f"{COMMON} {GPT2_LIKE} {flags}".split()), world_size=dist.get_world_size())
    start = find_start(run)
    join(run.config, run.layout)
    try:
        trained = build(run)
        assert load_start(run, trained, start) == 2
        Saver(run, trained, Path(f"{folder}/here")).save(2, is_last=True)
    finally:
        parallel_state.destroy_model_parallel()
    train(flags, f"{folder}/second")


@pytest.mark.parametrize("case", ["fp32 to bf16", *SLOW])
def test_weights_moments_and_steps_are_the_same(case: str, tmp_path: Path) -> None:
    writer, reader = CASES[case]
    run_distributed(saved_loaded_saved, 2, writer, reader, str(tmp_path))
    folders = [tmp_path / name / "iter_0000002" for name in ("there", "here")]
    there, here = map(read_tensors, folders)
    precision = next((dtype for flag, dtype in PRECISIONS.items() if flag in reader), torch.float32)
    weights = [name for name in there if not name.startswith("optimizer.")]
    assert len(weights) > 10
    for name in weights:
        master = full(there, name)
        assert master.equal(full(here, name)), name
        assert here[name].dtype is precision
        assert here[name].equal(master.to(precision)), name
        for moment in MOMENTS:
            assert there[moment + name].equal(here[moment + name]), moment + name
    assert [steps_in(load_common_state_dict(str(folder))["optimizer"]) for folder in folders] == [{2}, {2}]


def full(tensors: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """A weight in full precision."""
    return next((tensors[prefix + name] for prefix in MASTERS if prefix + name in tensors), tensors[name])


def steps_in(state: dict[object, object]) -> set[object]:
    """Of Adam, in all groups of parameters."""
    found: set[object] = set()
    for key, value in state.items():
        if key == "param_groups":
            assert isinstance(value, list)
            found |= {group["step"] for group in value}
        elif isinstance(value, dict):
            found |= steps_in(value)
    return found
