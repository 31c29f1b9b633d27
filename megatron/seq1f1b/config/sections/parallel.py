"""How the model is laid over processes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ParallelOptions:
    """Parallelism: how the model is laid over processes."""

    tensor_model_parallel_size: int = 1
    """Processes that share each layer."""
    sequence_parallel: bool = False
    """Also shard what lies between the tensor-parallel layers, by sequence."""
    pipeline_model_parallel_size: int = 1
    """Pipeline stages."""
    num_layers_per_virtual_pipeline_stage: int | None = None
    """Layers of one virtual stage; turns interleaving on."""
    num_virtual_stages_per_pipeline_rank: int | None = None
    """Virtual stages per stage, said by their number."""
    decoder_first_pipeline_num_layers: int | None = None
    """Layers of the first stage; the others share the rest."""
    decoder_last_pipeline_num_layers: int | None = None
    """Layers of the last stage; the others share the rest."""
    account_for_embedding_in_pipeline_split: bool = False
    """Count the embedding as a layer: the first virtual stage has one layer less than the others."""
    account_for_loss_in_pipeline_split: bool = False
    """Count output layer and loss as a layer: the last virtual stage has one layer less."""
    pipeline_model_parallel_layout: str | None = None
    """What each virtual stage has, as in Et|(tt|)*2tL: embedding, layers, loss; even shares."""
    use_distributed_optimizer: bool = False
    """Shard optimizer states over data-parallel processes."""
    overlap_grad_reduce: bool = False
    """Reduce gradients while backward goes on."""
    overlap_param_gather: bool = False
    """Gather parameters while forward goes on; needs the two options above."""
    ddp_bucket_size: int | None = None
    """With --overlap-grad-reduce: parameters whose gradients are reduced together; Megatron-Core's."""
    ddp_pad_buckets_for_high_nccl_busbw: bool = False
    """With --use-distributed-optimizer: make buckets multiples of what NCCL sends fastest."""
    ddp_num_buckets: int | None = None
    """With --overlap-grad-reduce: into how many such groups a process's parameters go."""
    grad_reduce_in_bf16: bool = False
    """With --bf16: add gradients up in bfloat16, over microbatches and processes; in float32."""
    ddp_average_in_collective: bool = False
    """Take the mean over processes while gradients are reduced; they are scaled before."""
    ddp_reduce_scatter_with_fp32_accumulation: bool = False
    """With --grad-reduce-in-bf16: send bfloat16, and add what all processes sent in float32."""
    distributed_timeout_minutes: int = 10
    """A process that waits longer for another gives up."""
