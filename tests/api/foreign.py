"""A training script that is not ours, in miniature: its model, data, forward steps and loss functions.

`both` runs one step of it under Megatron-Core's own schedule and under the chunked one, from the same
weights and data, in the same processes.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.pipeline_parallel.schedules import get_forward_backward_func
from megatron.core.transformer.transformer_config import TransformerConfig

from megatron.seq1f1b.api import chunked_layer_spec, seq1f1b_forward_backward

SEQ_LENGTH, VOCAB_SIZE = 24, 64
BOUNDARIES = (0, 9, 17, 24)
Batch = dict[str, torch.Tensor]
Step = Callable[..., tuple[torch.Tensor, object]]
Model = Any


@dataclass(frozen=True, kw_only=True)
class Script:
    """What differs from script to script."""

    pipeline: int = 1
    tensor: int = 1
    virtual: int = 1
    step: str = "sums"
    microbatches: int = 3
    micro_batch_size: int = 2
    config: Mapping[str, Any] = field(default_factory=dict)
    data_parallel: Mapping[str, Any] = field(default_factory=dict)
    schedule: str = "seq1f1b"
    call: Mapping[str, Any] = field(default_factory=dict)


@contextmanager
def processes(script: Script) -> Iterator[None]:
    """Megatron-Core's parallel groups for a script."""
    os.environ["CUDA_DEVICE_MAX_CONNECTIONS"] = "1"  # tensor parallelism recommends it
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=script.tensor,
        pipeline_model_parallel_size=script.pipeline,
        virtual_pipeline_model_parallel_size=script.virtual if script.virtual > 1 else None,
    )
    try:
        yield
    finally:
        parallel_state.destroy_model_parallel()


def transformer_config(script: Script) -> TransformerConfig:
    options: dict[str, Any] = {
        "num_layers": 4,
        "hidden_size": 16,
        "num_attention_heads": 4,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "use_cpu_initialization": True,
        "pipeline_dtype": torch.float32,
        "tensor_model_parallel_size": script.tensor,
        "pipeline_model_parallel_size": script.pipeline,
        "virtual_pipeline_model_parallel_size": script.virtual if script.virtual > 1 else None,
        "batch_p2p_comm": False,
        "cuda_graph_scope": [],
    }
    config = TransformerConfig(**{**options, **script.config})
    config.finalize_model_grads_func = finalize_model_grads
    return config


def build(script: Script, *, is_chunked: bool, position_embedding: str = "rope") -> list[Model]:
    """This rank's model parts in Megatron-Core's data-parallel wrapper; equal weights every time."""
    tensor_parallel.model_parallel_cuda_manual_seed(1234)
    torch.manual_seed(1234)
    config = transformer_config(script)
    spec = get_gpt_layer_local_spec()
    parts = []
    for stage in range(script.virtual) if script.virtual > 1 else [None]:
        model = GPTModel(
            config,
            chunked_layer_spec(spec) if is_chunked else spec,
            vocab_size=VOCAB_SIZE,
            max_sequence_length=2 * SEQ_LENGTH,
            position_embedding_type=position_embedding,
            pre_process=parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=stage),
            post_process=parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=stage),
            vp_stage=stage,
        )
        wrapper = DistributedDataParallelConfig(**script.data_parallel)
        # The first part's buckets are reduced by themselves, as Megatron-LM has it.
        parts.append(DistributedDataParallel(config, wrapper, model, disable_bucketing=bool(stage)))
    return parts


def batches(script: Script, *, seed: int = 1, seq_length: int = SEQ_LENGTH) -> Iterator[Batch]:
    """Random tokens and a random loss mask, others on every data-parallel rank."""
    generator = torch.Generator().manual_seed(seed + 100 * parallel_state.get_data_parallel_rank())
    while True:
        size = (script.micro_batch_size, seq_length + 1)
        yield {
            "text": torch.randint(VOCAB_SIZE, size, generator=generator),
            "loss_mask": (torch.rand(size, generator=generator)[:, 1:] < 0.7).float(),
        }


def call_model(batch: Batch, model: Model, **options: Any) -> torch.Tensor:
    """As many scripts do: tokens, labels and positions are made here, of a sequence and one more token."""
    text = batch["text"]
    positions = torch.arange(text.shape[1] - 1)[None].expand(len(text), -1)
    labels = options.pop("labels", text[:, 1:])
    output: torch.Tensor = model(text[:, :-1], positions, options.pop("mask", None), labels=labels, **options)
    return output


def sum_of_losses(mask: torch.Tensor, losses: torch.Tensor) -> tuple[torch.Tensor, ...]:
    total, count = (losses * mask).sum(), mask.sum()
    return total, count.int(), {"lm loss": torch.stack([total.detach(), count])}  # type: ignore[return-value]


def mean_of_losses(mask: torch.Tensor, losses: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    mean = (losses * mask).sum() / mask.sum()
    return mean, {"lm loss": mean.detach().clone()}


def crooked_loss(mask: torch.Tensor, losses: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Not linear in the losses of tokens, and with a log that is not either."""
    mean = (losses * mask).sum() / mask.sum()
    return mean.square(), {"perplexity": mean.detach().exp()}


def sums(iterator: Iterator[Batch], model: Model) -> tuple[torch.Tensor, object]:
    batch = next(iterator)
    return call_model(batch, model), partial(sum_of_losses, batch["loss_mask"])


def means(iterator: Iterator[Batch], model: Model) -> tuple[torch.Tensor, object]:
    batch = next(iterator)
    return call_model(batch, model), partial(mean_of_losses, batch["loss_mask"])


def crooked(iterator: Iterator[Batch], model: Model) -> tuple[torch.Tensor, object]:
    batch = next(iterator)
    return call_model(batch, model), partial(crooked_loss, batch["loss_mask"])


def lists(iterator: Iterator[list[torch.Tensor]], model: Model) -> tuple[torch.Tensor, object]:
    text, mask = next(iterator)
    return call_model({"text": text}, model), partial(sum_of_losses, mask)


def masked(iterator: Iterator[Batch], model: Model) -> tuple[torch.Tensor, object]:
    """With the causal mask that Megatron-LM's data loader makes."""
    batch = next(iterator)
    causal = torch.ones(SEQ_LENGTH, SEQ_LENGTH).triu(1).bool()[None, None]
    return call_model(batch, model, mask=causal), partial(sum_of_losses, batch["loss_mask"])


def broadcast(iterator: Iterator[Batch] | None, model: Model) -> tuple[torch.Tensor, object]:
    """As Megatron-LM's: one rank of a tensor-parallel group reads, the others receive whole shapes."""
    batch = next(iterator) if iterator is not None else None
    group, size = parallel_state.get_tensor_model_parallel_group(), (2, SEQ_LENGTH + 1)
    text = torch.empty(size, dtype=torch.long) if batch is None else batch["text"]
    mask = torch.empty(2, SEQ_LENGTH) if batch is None else batch["loss_mask"]
    for tensor in (text, mask):
        dist.broadcast(tensor, parallel_state.get_tensor_model_parallel_src_rank(), group=group)
    return call_model({"text": text}, model), partial(sum_of_losses, mask)


def logits(iterator: Iterator[Batch], model: Model) -> tuple[torch.Tensor, object]:
    """The model returns logits; the loss function, or what collects them, is the script's own."""
    batch = next(iterator)

    def loss_func(output: torch.Tensor, non_loss_data: bool = False) -> Any:
        if non_loss_data:
            return {"logits": output}
        flat = torch.nn.functional.cross_entropy(output.flatten(0, 1), batch["text"][:, 1:].flatten())
        return flat, {"lm loss": flat.detach().clone()}

    return call_model(batch, model, labels=None), loss_func


STEPS: dict[str, Step] = {
    step.__name__: step for step in (sums, means, crooked, lists, masked, broadcast, logits)
}


def iterators(script: Script, **options: Any) -> list[Iterator[Any] | None]:
    """One per model part."""
    if script.step == "broadcast" and parallel_state.get_tensor_model_parallel_rank() > 0:
        return [None] * script.virtual
    made: list[Iterator[Any]] = [batches(script, **options) for _ in range(script.virtual)]
    if script.step == "lists":
        return [([batch["text"], batch["loss_mask"]] for batch in each) for each in made]
    return list(made)


def step_of(function: Callable[..., Any], parts: list[Model], script: Script, **call: Any) -> list[Any]:
    """One forward and backward of a script."""
    for part in parts:
        part.zero_grad_buffer()
    options: dict[str, Any] = {
        "forward_step_func": STEPS[script.step],
        "data_iterator": iterators(script) if script.virtual > 1 else iterators(script)[0],
        "model": parts if script.virtual > 1 else parts[0],
        "num_microbatches": script.microbatches,
        "seq_length": SEQ_LENGTH,
        "micro_batch_size": script.micro_batch_size,
        **script.call,
        **call,
    }
    logs: list[Any] = function(**options)
    return logs


def gradients(parts: list[Model]) -> dict[str, torch.Tensor]:
    return {
        f"{index}.{name}": copy.deepcopy(parameter.main_grad)
        for index, part in enumerate(parts)
        for name, parameter in part.named_parameters()
    }


def chunked_function(script: Script) -> Any:
    return seq1f1b_forward_backward(chunks=3, boundaries=BOUNDARIES, schedule=script.schedule)


def assert_equal(ours: Any, theirs: Any) -> None:
    """Logs or gradients agree up to the order of summation."""
    torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-6)


def both(scripts: list[Script]) -> int:
    """Logs and gradients of one step agree between the schedules, for every script; how many did."""
    for script in scripts:
        with processes(script):
            found = []
            for is_chunked in (False, True):
                parts = build(script, is_chunked=is_chunked)
                function = chunked_function(script) if is_chunked else get_forward_backward_func()
                logs = step_of(function, parts, script)
                found.append((logs, gradients(parts)))
                if is_chunked:
                    function.close()
            assert_equal(found[1], found[0])
    return len(scripts)
