"""How each field of Megatron-Core's configuration dataclasses is reached from here, or why it is not.

Of `TransformerConfig`, `DistributedDataParallelConfig`, `OptimizerConfig` and the arguments of
`GPTModel`, together, since a name means the same in all of them. A field with an option of its name is
that option, and one whose flag stands in `megatron_flag_lists.py` is explained there; every other one
stands below: what it is reached by, what it follows from, or why it is left as it is. A test compares
with the dataclasses.
"""

from __future__ import annotations

import dataclasses
import typing
from enum import Enum

from megatron.seq1f1b.config.megatron_flag_lists import ACCEPTED, REFUSED, by_flag
from megatron.seq1f1b.config.options import Config

SERVED = """
--norm-epsilon
    layernorm_epsilon
--disable-bias-linear
    add_bias_linear
--swiglu or --quick-geglu
    gated_linear_unit
--swiglu, --quick-geglu, --squared-relu or --openai-gelu
    activation_func
--max-position-embeddings
    max_sequence_length
--untie-embeddings-and-output-weights
    share_embeddings_and_output_weights
--use-rope-scaling
    rope_scaling
--rotary-seq-len-interpolation-factor
    seq_len_interpolation_factor
--apply-layernorm-1p
    layernorm_zero_centered_gamma
--num-experts
    num_moe_experts
--decoder-first-pipeline-num-layers
    num_layers_in_first_pipeline_stage
--decoder-last-pipeline-num-layers
    num_layers_in_last_pipeline_stage
--num-virtual-stages-per-pipeline-rank or --num-layers-per-virtual-pipeline-stage
    virtual_pipeline_model_parallel_size
--ddp-bucket-size or --ddp-num-buckets
    bucket_size
--ddp-average-in-collective
    average_in_collective
--ddp-reduce-scatter-with-fp32-accumulation
    reduce_scatter_with_fp32_accumulation
--ddp-pad-buckets-for-high-nccl-busbw
    pad_buckets_for_high_nccl_busbw
--check-for-nan-in-loss-and-grad, which checks losses too and names the place
    check_for_nan_in_grad
"""

DERIVED = """
the other fields
    config transformer_layer_spec
the process's place in the pipeline
    pre_process post_process vp_stage
the precision: --bf16, --fp16 or neither
    params_dtype pipeline_dtype autocast_dtype
--pipeline-model-parallel-size
    microbatch_group_size_per_vp_stage
half precision without --grad-reduce-in-bf16
    grad_reduce_in_fp32
no CUDA device
    use_cpu_initialization
the run, which sets its own functions
    finalize_model_grads_func grad_scale_func no_sync_func
the seed and the parameter's name: initial weights are the same under any layout
    init_method output_layer_init_method embedding_init_method
the schedules: messages one by one, and what was sent is freed
    batch_p2p_comm deallocate_pipeline_outputs
"""

UNSERVED = """
logits and embeddings are always shared among tensor-parallel processes
    parallel_output scatter_embedding_sequence_parallel
groups of processes are Megatron-Core's own
    pg_collection
metrics.jsonl and --timeline have the times; Megatron-Core's timers are not used
    timers barrier_with_L1_time
weights are always initialised, and then loaded
    perform_initialization
each stage reduces and gathers when it can
    grad_sync_func param_sync_func
Megatron-Core's schedules send messages one by one here, ours overlap them always
    overlap_p2p_comm batch_p2p_sync
every pass is in the precision of its parameters
    enable_autocast
use --recompute-granularity
    num_microbatches_with_partial_activation_checkpoints moe_layer_recompute
chunks divide the sequence; use --pipe-sp-splits
    max_seqlen_per_dp_cp_rank
nothing in Megatron-Core's local layers reads it
    moe_extended_tp tp_comm_atomic_ag tp_comm_atomic_rs
    init_model_with_meta_device disable_parameter_transpose_cache symmetric_ar_type
    memory_efficient_layer_norm
it needs Transformer Engine's layers, which are not used
    use_te_rng_tracker tp_comm_bulk_wgrad tp_comm_bulk_dgrad tp_comm_overlap_ag tp_comm_overlap_rs
    tp_comm_split_ag tp_comm_split_rs tp_comm_overlap_disable_qkv tp_comm_overlap_disable_fc1
    use_kitchen use_kitchen_attention kitchen_attention_backend quant_recipe
    fine_grained_activation_offloading offload_modules min_offloaded_tensor_size
use --bf16
    fp8 fp8_param fp8_quantizer_factory fp8_interval fp8_amax_history_len fp8_amax_compute_algo
    fp8_wgrad fp8_dot_product_attention fp8_multi_head_attention tp_only_amax_red
    first_last_layers_bf16 num_layers_at_start_in_bf16 num_layers_at_end_in_bf16 fp4 fp4_recipe
    fp4_param fp4_quantizer_factory activation_func_fp8_input_store
    reuse_grad_buf_for_mxfp8_param_ag keep_fp8_transpose_cache
use --pipeline-schedule seq1f1b-zb
    delay_wgrad_compute ep_overlap_early_attn_memory_release overlap_moe_expert_parallel_comm
chunks say how long they are; messages need not
    variable_seq_lengths
the schedule decides; give --pipeline-schedule a plan of your own
    overlap_p2p_comm_warmup_flush
every layer predicts the next token alone
    mtp_standalone mtp_block_spec
use --recompute-granularity
    cpu_offloading _cpu_offloading_context cpu_offloading_activations cpu_offloading_weights
    cpu_offloading_double_buffering
every layer has softmax attention over all keys or a window
    experimental_attention_variant dsa_indexer_n_heads dsa_indexer_head_dim dsa_indexer_topk
    dsa_indexer_loss_coeff dsa_indexer_use_sparse_loss linear_attention_freq linear_conv_kernel_dim
    linear_key_head_dim linear_value_head_dim linear_num_key_heads linear_num_value_heads
    is_hybrid_model mamba_state_dim mamba_head_dim mamba_num_groups mamba_num_heads
    use_mamba_mem_eff_path
every layer is alike
    heterogeneous_block_specs hetereogenous_dist_checkpoint
it is of Transformer Engine's attention and FlashAttention's, which are not used
    batch_invariant_mode
the fused kernel is never used
    bias_activation_fusion apply_rope_fusion fused_single_qkv_rope use_fused_weighted_squared_relu
chunks have no fixed graph
    cuda_graph_use_single_mempool cuda_graph_retain_backward_graph cuda_graph_warmup_steps
it is for inference
    flash_decode inference_rng_tracker inference_sampling_seed use_inference_optimized_layers
    inference_fuse_tp_communication mlp_chunks_for_prefill
groups of processes are made with NCCL's own settings
    nccl_ub
use --use-distributed-optimizer
    use_custom_fsdp suggested_communication_unit_size preserve_fp32_weights fsdp_double_buffer
    outer_dp_sharding_strategy fsdp_manual_registration
it is of --use-precision-aware-optimizer, which needs the Adam of Transformer Engine 2.1 on a GPU
    store_param_remainders
it needs NVIDIA's package emerging_optimizers, which is not used here
    muon_split_qkv
"""


class Reach(str, Enum):
    """How a field is reached."""

    SERVED = "served"
    DERIVED = "derived"
    UNSERVED = "not served"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoreField:
    """A field of Megatron-Core's configuration; `how` is its flag, what it follows from, or why not."""

    reach: Reach
    how: str


def core_field(name: str) -> CoreField | None:
    """What becomes of a field; None for one that nothing here knows."""
    listed = {Reach.SERVED: SERVED, Reach.DERIVED: DERIVED, Reach.UNSERVED: UNSERVED}
    for reach, text in listed.items():
        how = by_flag(text).get(name)
        if how is not None:
            return CoreField(reach=reach, how=how)
    flag = "--" + name.replace("_", "-")
    if name in option_names():
        return CoreField(reach=Reach.SERVED, how=flag)
    foreign = {word.split("=")[0]: why for word, why in by_flag(ACCEPTED + REFUSED).items()}
    why = foreign.get(flag) or foreign.get(flag.replace("--", "--no-", 1))
    return None if why is None else CoreField(reach=Reach.UNSERVED, how=why)


def listed_fields() -> list[str]:
    """Every field that stands in this file."""
    return [
        word
        for text in (SERVED, DERIVED, UNSERVED)
        for line in text.splitlines()
        if line.startswith(" ")
        for word in line.split()
    ]


def option_names() -> set[str]:
    """Of every section."""
    return {
        option.name
        for section in typing.get_type_hints(Config).values()
        for option in dataclasses.fields(section)
    }
