from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from megatron.seq1f1b.config import parse_arguments
from megatron.seq1f1b.model.flops import ModelDimensions
from megatron.seq1f1b.model.memory import KVHolding, ModelMemory, Recompute
from megatron.seq1f1b.planning.estimate import estimate
from megatron.seq1f1b.planning.from_run import is_mixed_precision, update_memory_of
from megatron.seq1f1b.planning.memory_report import MemoryReport
from megatron.seq1f1b.planning.occupancy import first_microbatches, microbatches_until_peak
from megatron.seq1f1b.schedule import add_communication, make_plan, validate_plan
from tests.config.flags import words

ROOT = Path(__file__).resolve().parents[2]
DIMENSIONS = ModelDimensions(
    num_layers=8,
    hidden_size=256,
    ffn_hidden_size=1024,
    num_query_heads=4,
    num_query_groups=4,
    head_dim=64,
    is_gated=False,
    padded_vocab_size=512,
)


def report(
    name: str,
    *,
    chunks: int = 4,
    seq_length: int = 2048,
    recompute: Recompute = Recompute.NONE,
    kv_holding: KVHolding = KVHolding.IN_PLACE,
) -> MemoryReport:
    plan = add_communication(make_plan(name, stages=4, microbatches=8, chunks=chunks))
    memory = ModelMemory(
        dimensions=DIMENSIONS, is_mixed=False, rotary_dim=64, recompute=recompute, kv_holding=kv_holding
    )
    boundaries = tuple(index * seq_length // chunks for index in range(chunks + 1))
    return estimate(memory, plan, boundaries, layers_of_virtual_stages=(2,) * 4, allocator_overhead=1.1)


def live_activations(estimated: MemoryReport, stage: int = 0) -> int:
    held = estimated.stages[stage]
    return held.activations_bytes + held.kv_cache_bytes + held.dkv_bytes + held.communication_bytes


@pytest.mark.parametrize(
    ("flags", "bytes_per_parameter"),
    [
        ("", (4, 8)),
        ("--bf16", (4, 12)),
        ("--bf16 --grad-reduce-in-bf16", (2, 12)),
        ("--optimizer sgd", (4, 4)),
        ("--optimizer sgd --sgd-momentum 0", (4, 0)),
        ("--bf16 --optimizer sgd --sgd-momentum 0", (4, 4)),
    ],
)
def test_what_gradients_and_optimizer_hold(flags: str, bytes_per_parameter: tuple[int, int]) -> None:
    """Of gradients, and of moments with master weights."""
    config = parse_arguments(words(flags))
    update = update_memory_of(config)
    optimizer_bytes = update.optimizer_bytes(is_mixed=is_mixed_precision(config))
    assert (update.gradient_bytes, optimizer_bytes) == bytes_per_parameter


def test_the_peak_is_the_sum_of_its_fields_times_the_overhead() -> None:
    printed = json.loads(report("seq1f1b").to_json())
    assert list(printed) == ["stages", "allocator_overhead"]
    assert printed["allocator_overhead"] == 1.1
    for number, stage in enumerate(printed["stages"]):
        assert list(stage) == [
            "stage",
            "parameters_bytes",
            "gradients_bytes",
            "optimizer_bytes",
            "activations_bytes",
            "kv_cache_bytes",
            "logits_bytes",
            "communication_bytes",
            "peak_bytes",
            "peak_action",
        ]
        assert stage["stage"] == number
        fields = [value for key, value in stage.items() if key.endswith("_bytes") and key != "peak_bytes"]
        assert stage["peak_bytes"] == pytest.approx(1.1 * sum(fields), abs=1)
        assert stage["peak_action"].startswith(str(number))


def test_chunks_halve_the_first_stage() -> None:
    ratio = live_activations(report("seq1f1b")) / live_activations(report("1f1b", chunks=1))
    assert 0.4 < ratio < 0.55


def test_concatenated_prefixes_cost_more_than_one_cache() -> None:
    in_place, concatenated = (report("seq1f1b", kv_holding=each) for each in KVHolding)
    assert concatenated.worst_peak_bytes > in_place.worst_peak_bytes


@pytest.mark.parametrize("name", ["seq1f1b", "seq1f1b-zb"])
def test_recomputing_layers_holds_less_and_attention_alone_more(name: str) -> None:
    """The inputs that a recomputed flash attention keeps outweigh its log-sum-exps."""
    full, none, selective = (
        report(name, recompute=each).stages[0].live_bytes
        for each in (Recompute.FULL, Recompute.NONE, Recompute.SELECTIVE)
    )
    assert full < none < selective


def test_the_table_names_the_stage_that_needs_most() -> None:
    estimated = report("1f1b", chunks=1)
    worst = max(estimated.stages, key=estimated.peak_bytes).stage
    assert estimated.to_table().splitlines()[-1].startswith(f"most on stage {worst}: ")


@pytest.mark.parametrize("name", ["1f1b", "seq1f1b", "seq1f1b-zb"])
def test_the_first_microbatches_are_a_plan_with_the_same_peak(name: str) -> None:
    chunks = 1 if name == "1f1b" else 4
    plan = make_plan(name, stages=4, microbatches=16, chunks=chunks)
    whole = first_microbatches(plan, microbatches_until_peak(plan, 0, [1] * chunks))
    validate_plan(whole)
    assert whole.num_microbatches < 16
    assert microbatches_until_peak(whole, 0, [1] * chunks) <= whole.num_microbatches


@pytest.mark.slow
def test_the_first_stage_holds_what_a_real_step_holds() -> None:
    """Counted by storage in a real run of four processes, after every forward."""
    command = "-m torch.distributed.run --standalone --nproc_per_node 4 benchmarks/activation_memory.py"
    sizes = "--microbatches 8 --chunks 4 --seq-length 2048 --layers 8 --hidden 256 --heads 4 --vocab 511"
    done = subprocess.run(
        [sys.executable, *command.split(), *sizes.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    counted = json.loads(done.stdout.splitlines()[-1])["peak_bytes_stage_0"]
    assert held_between_actions("1f1b", chunks=1) == pytest.approx(counted["1f1b"], rel=0.03)
    assert held_between_actions("seq1f1b", chunks=4) == pytest.approx(counted["average"], rel=0.03)


def held_between_actions(schedule: str, *, chunks: int) -> float:
    """By the first stage, without messages and without what the backward at the peak adds."""
    held, length = report(schedule, chunks=chunks).stages[0], 2048 // chunks
    memory = ModelMemory(dimensions=DIMENSIONS, is_mixed=False, rotary_dim=64)
    added = memory.backward_temporary_bytes(length, 2048 - length, is_gradient_received=True)
    return held.activations_bytes + held.kv_cache_bytes + held.dkv_bytes - added
