"""What Megatron-Core's schedule functions owe their caller, the chunked one owes too."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.pipeline_parallel.p2p_communication import P2PCommunicator
from megatron.core.pipeline_parallel.schedules import get_forward_backward_func

from megatron.seq1f1b.upstream.adam import choose_adam
from megatron.seq1f1b.upstream.parallel import groups_of_step
from tests.api import foreign
from tests.api.foreign import Script, assert_equal, build, gradients, processes, step_of
from tests.harness import run_distributed


@dataclass
class Timers:
    """Counts starts and stops as Megatron's timers are called."""

    running: list[str] = field(default_factory=list)
    finished: Counter[str] = field(default_factory=Counter)

    def __call__(self, name: str, log_level: int | None = None) -> Any:
        return _Timer(self, name)


@dataclass
class _Timer:
    timers: Timers
    name: str

    def start(self, barrier: bool = False) -> None:
        assert self.name not in self.timers.running, f"{self.name} runs already"
        self.timers.running.append(self.name)

    def stop(self) -> None:
        self.timers.running.remove(self.name)
        self.timers.finished[self.name] += 1


def functions(script: Script) -> list[tuple[bool, Any]]:
    return [(False, get_forward_backward_func()), (True, foreign.chunked_function(script))]


def options_in_one_process() -> None:
    """Timers, loss scale, custom finalisation, hooks on microbatches, changing counts and lengths."""
    script = Script(step="means")
    with processes(script):
        seen = [_watched_step(function, script, is_chunked) for is_chunked, function in functions(script)]
    (stock_timers, *stock), (timers, *ours) = seen
    assert not timers.running
    assert timers.finished.keys() == stock_timers.finished.keys()
    assert timers.finished["forward-backward"] == 1
    assert_equal(ours, stock)


def _watched_step(function: Any, script: Script, is_chunked: bool) -> list[Any]:
    parts = build(script, is_chunked=is_chunked)
    config = parts[0].config
    config.timers, finalized = Timers(), []
    config.grad_scale_func = lambda loss: loss * 8.0
    config.finalize_model_grads_func = lambda model, num_tokens, **options: finalized.append(
        [len(model), num_tokens, options["force_all_reduce"], options["pg_collection"].pp.size()]
    )
    logs = step_of(function, parts, script, force_all_reduce=True)
    return [
        config.timers,
        logs,
        gradients(parts),
        finalized,
        parts[0].module.decoder.layers[0].current_microbatch,
    ]


def test_timers_scale_finalisation_and_current_microbatch() -> None:
    run_distributed(options_in_one_process, 1)


def first_microbatches() -> None:
    """Weights are cached in fp8 from the first microbatch on; in validation, from that of the first step."""
    script = Script()
    with processes(script):
        counts: dict[bool, list[int]] = {}
        for is_chunked, function in functions(script):
            parts = build(script, is_chunked=is_chunked)
            calls: list[int] = []
            parts[0].set_is_first_microbatch = lambda calls=calls: calls.append(1)
            counts[is_chunked] = []
            for forward_only, first in ((False, None), (True, None), (True, True), (True, False)):
                calls.clear()
                step_of(function, parts, script, forward_only=forward_only, first_val_step=first)
                counts[is_chunked].append(len(calls))
    assert counts[True] == [1, 1, 1, 0]
    # Without a pipeline Megatron-Core's own function asks for the last microbatch where it means the first.
    assert counts[False][0] == 1


def test_first_microbatch_is_announced_once() -> None:
    run_distributed(first_microbatches, 1)


def evaluations_and_changes() -> None:
    """Forward-only steps leave gradients alone; data is collected; counts change between calls."""
    script = Script(pipeline=2)
    with processes(script):
        results: dict[bool, list[Any]] = {}
        for is_chunked, function in functions(script):
            parts = build(script, is_chunked=is_chunked)
            forbidden = _forbidden if is_chunked else None
            found = [step_of(function, parts, script), gradients(parts)]
            parts[0].config.grad_sync_func = parts[0].config.param_sync_func = forbidden
            finalize = parts[0].config.finalize_model_grads_func
            parts[0].config.finalize_model_grads_func = _forbidden
            before = gradients(parts)
            found.append(_evaluate(function, parts, script))
            assert_equal(gradients(parts), {name: torch.zeros_like(each) for name, each in before.items()})
            collected = replace(script, step="logits")
            found.append(step_of(function, parts, collected, forward_only=True, collect_non_loss_data=True))
            parts[0].config.grad_sync_func = parts[0].config.param_sync_func = None
            parts[0].config.finalize_model_grads_func = finalize
            for count in (1, 4):
                found.append(step_of(function, parts, script, num_microbatches=count))
            results[is_chunked] = found
            assert not parts[0].module._forward_pre_hooks, "the model is as it was"
    assert_equal(results[True], results[False])


def _forbidden(*arguments: object, **options: object) -> None:
    raise AssertionError("called in a forward-only step")


def _evaluate(function: Any, parts: list[Any], script: Script) -> list[Any]:
    with torch.no_grad():
        return step_of(function, parts, script, forward_only=True)


def test_evaluation_collected_data_and_changing_microbatches() -> None:
    run_distributed(evaluations_and_changes, 2)


def lengths_change() -> None:
    script = Script(pipeline=2)
    with processes(script):
        results = {}
        for is_chunked in (False, True):
            parts = build(script, is_chunked=is_chunked)
            function: Any = get_forward_backward_func()
            if is_chunked:
                function = foreign.seq1f1b_forward_backward(chunks=3)
            results[is_chunked] = [
                step_of(
                    function,
                    parts,
                    script,
                    seq_length=length,
                    data_iterator=foreign.batches(script, seq_length=length),
                )
                for length in (24, 16, 24)
            ]
    assert_equal(results[True], results[False])


def test_the_sequence_length_may_change_between_steps() -> None:
    run_distributed(lengths_change, 2)


def given_groups() -> None:
    """A communicator and a collection of groups, both or neither."""
    script = Script(pipeline=2)
    with processes(script):
        results = []
        for is_chunked, function in functions(script):
            parts = build(script, is_chunked=is_chunked)
            groups = groups_of_step(None, None)
            communicator = P2PCommunicator(pp_group=groups.pp, config=parts[0].config)
            logs = step_of(function, parts, script, p2p_communicator=communicator, pg_collection=groups)
            results.append((logs, gradients(parts)))
        assert_equal(results[1], results[0])
        for lone in ({"p2p_communicator": communicator}, {"pg_collection": groups}):
            with pytest.raises(ValueError, match="both or neither"):
                step_of(function, parts, script, **lone)
        lacking = copy.copy(groups)
        del lacking.embd
        with pytest.raises(ValueError, match="pg_collection lacks embd"):
            step_of(function, parts, script, p2p_communicator=communicator, pg_collection=lacking)


def test_process_groups_may_be_given() -> None:
    run_distributed(given_groups, 2)


OVERLAPPED = {
    "use_distributed_optimizer": True,
    "overlap_grad_reduce": True,
    "overlap_param_gather": True,
    "bucket_size": 2000,
}


def overlapped_training(scripts: list[Script]) -> None:
    """Three optimizer steps with overlapped reduction and gathering end in the stock schedule's weights."""
    choose_adam()
    for script in scripts:
        with processes(script):
            weights = [
                _train_overlapped(function, script, is_chunked) for is_chunked, function in functions(script)
            ]
            assert_equal(weights[1][0], weights[0][0])
            calls = [each[1] for each in weights]
            assert calls[1]["grad_sync"] == calls[0]["grad_sync"], calls


def _train_overlapped(function: Any, script: Script, is_chunked: bool) -> tuple[list[Any], Counter[str]]:
    parts = build(script, is_chunked=is_chunked)
    config, calls = parts[0].config, Counter[str]()
    is_aligned = bool(script.data_parallel.get("align_param_gather"))

    def counted(name: str, functions: list[Any]) -> Any:
        def count(which: Any) -> Any:
            return lambda *args: (calls.update([name]), which(*args))[1]

        made = [count(each) for each in functions]
        return made if len(made) > 1 else made[0]

    no_sync = [part.no_sync for part in parts]
    config.no_sync_func = no_sync if len(parts) > 1 else no_sync[0]
    if is_aligned:
        config.grad_sync_func = counted("grad_sync", [part.start_grad_sync for part in parts])
        config.param_sync_func = counted("param_sync", [part.start_param_sync for part in parts])
    optimizer = get_megatron_optimizer(
        OptimizerConfig(optimizer="adam", lr=1e-2, adam_eps=1e-3, use_distributed_optimizer=True), parts
    )
    logs = []
    for _ in range(3):
        optimizer.zero_grad()
        logs.append(step_of(function, parts, script))
        optimizer.step()
    for part in parts:
        part.start_param_sync(force_sync=True)
    return [logs, [[each.data.clone() for each in part.parameters()] for part in parts]], calls


ALIGNED = {**OVERLAPPED, "align_param_gather": True}


def test_overlapped_reduction_and_gathering_in_two_replicas() -> None:
    scripts = [Script(data_parallel=OVERLAPPED), Script(data_parallel=OVERLAPPED, schedule="seq1f1b-zb")]
    run_distributed(overlapped_training, 2, scripts)


@pytest.mark.slow
def test_overlapped_and_aligned_communication_in_two_replicas_of_two_stages() -> None:
    scripts = [
        Script(pipeline=2, data_parallel=OVERLAPPED),
        Script(pipeline=2, data_parallel=ALIGNED),
        Script(pipeline=2, data_parallel=ALIGNED, schedule="seq1f1b-zb"),
        Script(pipeline=2, virtual=2, microbatches=4, data_parallel=ALIGNED, schedule="seq1f1b-interleaved"),
    ]
    run_distributed(overlapped_training, 4, scripts)


def message_settings() -> None:
    """How the stock schedule sends and frees tensors is its own affair; ours gives the same under any."""
    script = Script(pipeline=2, virtual=2, microbatches=2, schedule="seq1f1b-interleaved")
    with processes(script):
        results = []
        for options in ({}, {"overlap_p2p_comm": True}, {"deallocate_pipeline_outputs": True}):
            varied = replace(script, config=options)
            parts = build(varied, is_chunked=True)
            results.append((step_of(foreign.chunked_function(varied), parts, varied), gradients(parts)))
        parts = build(script, is_chunked=False)
        stock = step_of(get_forward_backward_func(), parts, script), gradients(parts)
    for result in results:
        assert_equal(result, stock)


def test_settings_of_the_stock_schedules_messages_change_nothing() -> None:
    run_distributed(message_settings, 2)


def buffers_are_kept() -> list[int]:
    """Receive buffers allocated after each of three steps and an evaluation."""
    script = Script(pipeline=2, microbatches=4)
    with processes(script):
        parts = build(script, is_chunked=True)
        function = foreign.chunked_function(script)
        counts = []
        for forward_only in (False, False, False, True):
            step_of(function, parts, script, forward_only=forward_only)
            counts.append(sum(each.num_receive_buffers for each in function._functions.values()))
        assert dist.get_world_size() == 2
    return counts


def test_steps_after_the_first_allocate_no_receive_buffers() -> None:
    for first, second, third, evaluation in run_distributed(buffers_are_kept, 2):
        assert 0 < first == second == third == evaluation
