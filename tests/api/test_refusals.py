"""What a script asks for and chunked schedules cannot serve is refused by name, with what to change."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec

from megatron.seq1f1b.api import chunked_layer_spec, seq1f1b_forward_backward
from megatron.seq1f1b.errors import ConfigurationError, Seq1F1BError, StepError
from megatron.seq1f1b.runtime.unserved import UNSERVED_FIELDS, refuse_in_one_queue, refuse_unserved
from megatron.seq1f1b.schedule import add_communication, make_plan
from tests.api import foreign
from tests.api.foreign import SEQ_LENGTH, Script, build, call_model, processes, step_of
from tests.harness import run_distributed

PLAIN = {
    "context_parallel_size": 1,
    "pipeline_model_parallel_comm_backend": None,
    "microbatch_group_size_per_vp_stage": None,
    "pipeline_dtype": torch.float32,
}


@pytest.mark.parametrize("name", sorted(UNSERVED_FIELDS))
def test_fields_of_the_configuration_are_refused_by_name(name: str) -> None:
    refuse_unserved(SimpleNamespace(**PLAIN), num_stages=2, num_parts=1)
    with pytest.raises(ConfigurationError, match=re.escape(f"{name}: {UNSERVED_FIELDS[name][:30]}")):
        refuse_unserved(SimpleNamespace(**PLAIN, **{name: True}), num_stages=2, num_parts=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cuda_graph_impl": "local"}, "cuda_graph_impl: chunks of one layer differ in shape"),
        ({"context_parallel_size": 2}, "context_parallel_size 2: chunks already divide"),
        ({"pipeline_model_parallel_comm_backend": "ucc"}, "'ucc': use 'nccl'"),
        ({"microbatch_group_size_per_vp_stage": 3}, "microbatch_group_size_per_vp_stage 3"),
        ({"pipeline_dtype": None}, "pipeline_dtype is None"),
    ],
)
def test_values_of_the_configuration_are_refused_with_the_number(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        refuse_unserved(SimpleNamespace(**{**PLAIN, **change}), num_stages=2, num_parts=2)


def test_plans_that_one_queue_would_stop_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = add_communication(
        make_plan("seq1f1b-interleaved", stages=2, microbatches=2, chunks=8, virtual_stages=2)
    )
    refuse_in_one_queue(plan)
    monkeypatch.setenv("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    with pytest.raises(ConfigurationError, match=r"would stand still at 0SEND_F0.4, 1SEND_F0.1; set it to 8"):
        refuse_in_one_queue(plan)
    refuse_in_one_queue(add_communication(make_plan("seq1f1b", stages=2, microbatches=2, chunks=8)))


Step = Callable[[Iterator[Any], Any], tuple[torch.Tensor, Any]]


def reads_twice(iterator: Iterator[Any], model: Any) -> tuple[torch.Tensor, Any]:
    next(iterator)
    return foreign.sums(iterator, model)


def calls_twice(iterator: Iterator[Any], model: Any) -> tuple[torch.Tensor, Any]:
    batch = next(iterator)
    call_model(batch, model)
    return call_model(batch, model), partial(foreign.sum_of_losses, batch["loss_mask"])


def calls_never(iterator: Iterator[Any], model: Any) -> tuple[torch.Tensor, Any]:
    return torch.zeros(2, 9), foreign.mean_of_losses


def reduces_itself(iterator: Iterator[Any], model: Any) -> tuple[torch.Tensor, Any]:
    return call_model(next(iterator), model).mean(), lambda mean: (mean, {"lm loss": mean.detach()})


def other_mask(iterator: Iterator[Any], model: Any) -> tuple[torch.Tensor, Any]:
    mask = torch.zeros(1, 1, SEQ_LENGTH, SEQ_LENGTH, dtype=torch.bool)
    return call_model(next(iterator), model, mask=mask), foreign.mean_of_losses


def embeds_itself(iterator: Iterator[Any], model: Any) -> tuple[torch.Tensor, Any]:
    embedded = torch.zeros(SEQ_LENGTH, 2, 16)
    return call_model(next(iterator), model, decoder_input=embedded), foreign.mean_of_losses


def _ends_early() -> Iterator[Any]:
    yield next(foreign.batches(Script()))


def _long() -> Iterator[Any]:
    return foreign.batches(Script(), seq_length=SEQ_LENGTH + 8)


WRONG_CALLS: list[tuple[dict[str, Any], str]] = [
    ({"forward_step_func": reads_twice}, "asked for a second batch for microbatch 0"),
    ({"forward_step_func": calls_twice}, "called its model twice"),
    ({"forward_step_func": calls_never}, "did not call its model"),
    ({"forward_step_func": reduces_itself}, r"returned \[\] for a chunk of 9 tokens.*loss function"),
    ({"forward_step_func": other_mask}, "not the causal one.*leave it out"),
    ({"forward_step_func": embeds_itself}, "do not serve a model's argument decoder_input"),
    ({"data_iterator": "ends early"}, "ended after 1 of the 3 microbatches"),
    ({"data_iterator": "longer"}, r"input_ids of shape \[2, 32\] in a step whose seq_length is 24"),
    ({"micro_batch_size": 4}, "input_ids of 2 sequences in a step whose micro_batch_size is 4"),
    ({"decoder_seq_length": 8}, "decoder_seq_length: leave it out"),
    ({"adjust_tensor_shapes_fn": print}, "adjust_tensor_shapes_fn: leave it out"),
    ({"seq_length": 16}, "a step of 16 tokens was asked for, but the chunk boundaries end at 24"),
    ({"data_iterator": [None, None]}, "2 data iterators were given for 1 model parts"),
]


def wrong_calls() -> list[str]:
    """What every wrong call is told; afterwards a right one still runs."""
    script, told = Script(), []
    with processes(script):
        parts = build(script, is_chunked=True)
        function = foreign.chunked_function(script)
        for change, _ in WRONG_CALLS:
            made = {"ends early": _ends_early, "longer": _long}.get(str(change.get("data_iterator")))
            given = {**change, "data_iterator": made()} if made else change
            told.append(_told(lambda given=given: step_of(function, parts, script, **given)))
        assert len(step_of(foreign.chunked_function(script), parts, script)) == script.microbatches
    return told


def _told(call: Callable[[], object]) -> str:
    try:
        call()
    except Seq1F1BError as error:
        return str(error)
    return "no error"


def test_wrong_calls_are_told_what_is_wrong() -> None:
    (told,) = run_distributed(wrong_calls, 1)
    for (change, message), text in zip(WRONG_CALLS, told, strict=True):
        assert re.search(message, text), (change, text)


def wrong_models() -> list[str]:
    """A model without chunked layers, too many parts for the schedule, too many chunks."""
    script, told = Script(), []
    with processes(script):
        stock, parts = build(script, is_chunked=False), build(script, is_chunked=True)
        told.append(_told(lambda: step_of(foreign.chunked_function(script), stock, script)))
        two = replace(script, virtual=2)
        told.append(_told(lambda: step_of(foreign.chunked_function(two), parts * 2, two)))
        many = seq1f1b_forward_backward(chunks=25)
        told.append(_told(lambda: step_of(many, parts, script)))
        unknown = seq1f1b_forward_backward(chunks=3, schedule="gpipe")
        told.append(_told(lambda: step_of(unknown, parts, script)))
    return told


def test_wrong_models_and_chunks_are_told_what_is_wrong() -> None:
    (stock, parts, many, unknown) = run_distributed(wrong_models, 1)[0]
    assert "layer 1 of the model attends with DotProductAttention" in stock
    assert "build the model from chunked_layer_spec" in stock
    assert "seq1f1b" in parts and "virtual" in parts, parts
    assert "25" in many and "24" in many, many
    assert "gpipe" in unknown, unknown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunks": 3, "boundaries": (0, 9, 24)}, r"\[0, 9, 24\] make 2 chunks, but chunks is 3"),
        ({"chunks": 0}, "chunks 0 must be a whole number; 1 leaves sequences whole"),
        ({"chunks": 2.5}, r"chunks 2\.5 must be a whole number"),
        ({"chunks": 3, "strategy": "profiled"}, "'profiled' does not exist here; use one of average"),
    ],
)
def test_options_that_cannot_be_are_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        seq1f1b_forward_backward(**options)


def test_layers_with_cross_attention_are_refused() -> None:
    spec = get_gpt_layer_local_spec()
    spec.submodules.cross_attention = torch.nn.Module
    with pytest.raises(ConfigurationError, match="TransformerLayer has cross-attention"):
        chunked_layer_spec(spec)


def a_stage_dies() -> str:
    """The last stage ends in the middle of a step; what the first one says."""
    script = Script(pipeline=2)
    message = "no error"
    with processes(script):
        parts = build(script, is_chunked=True)
        function = foreign.chunked_function(script)
        step_of(function, parts, script)
        try:
            step_of(function, parts, script, forward_step_func=_dying(foreign.sums))
        except StepError as error:
            message = str(error)
        dist.destroy_process_group()
    return message


def _dying(step: Step) -> Step:
    def die(iterator: Iterator[Any], model: Any) -> tuple[torch.Tensor, Any]:
        if dist.get_rank() == 1:
            raise StepError("I die")
        return step(iterator, model)

    return die


def test_a_dead_stage_is_named_with_action_and_rank() -> None:
    first, last = run_distributed(a_stage_dies, 2)
    assert last == "1F0.0 on stage 1: I die"
    assert re.search(r"on stage 0: .*0(RECV_B|SEND_F)\d\.\d (from|to) rank 1", first), first
