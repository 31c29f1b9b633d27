"""`stock.py` with Seq1F1B: two lines and their import.

torchrun --nproc_per_node 2 examples/megatron_core_script/chunked.py
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial

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
from megatron.core.transformer.transformer_config import TransformerConfig

from megatron.seq1f1b.api import chunked_layer_spec, seq1f1b_forward_backward

SEQ_LENGTH, VOCAB_SIZE, MICROBATCHES, STEPS = 64, 128, 4, 4
Batch = dict[str, torch.Tensor]


def build_model() -> DistributedDataParallel:
    """This stage's layers, in Megatron-Core's data-parallel wrapper."""
    config = TransformerConfig(
        num_layers=4,
        hidden_size=32,
        num_attention_heads=4,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        use_cpu_initialization=True,
        pipeline_dtype=torch.float32,
        pipeline_model_parallel_size=parallel_state.get_pipeline_model_parallel_world_size(),
        batch_p2p_comm=False,
        cuda_graph_scope=[],
    )
    config.finalize_model_grads_func = finalize_model_grads
    spec = chunked_layer_spec(get_gpt_layer_local_spec())
    model = GPTModel(
        config,
        spec,
        vocab_size=VOCAB_SIZE,
        max_sequence_length=SEQ_LENGTH,
        position_embedding_type="rope",
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=parallel_state.is_pipeline_last_stage(),
    )
    return DistributedDataParallel(config, DistributedDataParallelConfig(), model)


def batches(seed: int) -> Iterator[Batch]:
    """Random tokens; every fifth does not count in the loss."""
    generator = torch.Generator().manual_seed(seed)
    positions = torch.arange(SEQ_LENGTH)[None]
    while True:
        text = torch.randint(VOCAB_SIZE, (1, SEQ_LENGTH + 1), generator=generator)
        yield {
            "tokens": text[:, :-1],
            "labels": text[:, 1:],
            "position_ids": positions,
            "loss_mask": (positions % 5 != 0).float(),
            "attention_mask": torch.ones(SEQ_LENGTH, SEQ_LENGTH).triu(1).bool()[None, None],
        }


def loss_func(
    loss_mask: torch.Tensor, losses: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Sum over the tokens that count, how many they are, and both for the log."""
    total, count = (losses * loss_mask).sum(), loss_mask.sum()
    return total, count.int(), {"lm loss": torch.stack([total.detach(), count])}


def forward_step(data_iterator: Iterator[Batch], model: torch.nn.Module) -> tuple[torch.Tensor, object]:
    """One microbatch through this stage."""
    batch = next(data_iterator)
    output = model(batch["tokens"], batch["position_ids"], batch["attention_mask"], labels=batch["labels"])
    return output, partial(loss_func, batch["loss_mask"])


def train() -> list[float]:
    """A few steps; the mean loss of each on the last stage."""
    model = build_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    forward_backward_func = seq1f1b_forward_backward(chunks=4)
    data, losses = batches(seed=1), []
    for _ in range(STEPS):
        optimizer.zero_grad()
        model.zero_grad_buffer()
        reports = forward_backward_func(
            forward_step_func=forward_step,
            data_iterator=data,
            model=model,
            num_microbatches=MICROBATCHES,
            seq_length=SEQ_LENGTH,
            micro_batch_size=1,
        )
        for parameter in model.parameters():
            parameter.grad = parameter.main_grad
        optimizer.step()
        if reports:
            total, count = torch.stack([report["lm loss"] for report in reports]).sum(0).tolist()
            losses.append(total / count)
    return losses


def main() -> None:
    """Join, train, report."""
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    parallel_state.initialize_model_parallel(pipeline_model_parallel_size=dist.get_world_size())
    tensor_parallel.model_parallel_cuda_manual_seed(1234)
    torch.manual_seed(1234)
    losses = train()
    if losses:
        print("losses:", " ".join(f"{loss:.4f}" for loss in losses), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
