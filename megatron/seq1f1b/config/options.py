"""Every option, its type, its default and its help: the docstring below a field is its `--help`.

A field's name with dashes is its flag, spelled as in Megatron-LM; `None` means "derived" or
"not given", as the help says.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Model: the shape of the GPT."""

    num_layers: int
    """Transformer layers."""
    hidden_size: int
    """Width of the hidden states."""
    ffn_hidden_size: int | None = None
    """Width of the MLP; 4 x hidden, with --swiglu 8/3 x hidden in multiples of 64."""
    num_attention_heads: int
    """Query heads."""
    group_query_attention: bool = False
    """Share keys and values between groups of query heads."""
    num_query_groups: int | None = None
    """Heads of keys and values; needs --group-query-attention."""
    kv_channels: int | None = None
    """Width of one head; hidden size / heads."""
    swiglu: bool = False
    """Gated linear unit with SiLU in the MLP, instead of GELU."""
    normalization: Literal["LayerNorm", "RMSNorm"] = "LayerNorm"
    """Which norm."""
    norm_epsilon: float = 1e-5
    """Epsilon of the norms."""
    qk_layernorm: bool = False
    """Normalise queries and keys."""
    disable_bias_linear: bool = False
    """No bias in linear layers."""
    add_qkv_bias: bool = False
    """Bias in the query, key and value projection even with --disable-bias-linear."""
    position_embedding_type: Literal["learned_absolute", "rope"] = "learned_absolute"
    """Learned positions or rotary ones."""
    rotary_base: int = 10000
    """Base of the rotary periods."""
    rotary_percent: float = 1.0
    """Share of each head that rotates."""
    max_position_embeddings: int | None = None
    """Longest sequence of the position table; the sequence length."""
    untie_embeddings_and_output_weights: bool = False
    """Give the output layer weights of its own."""
    make_vocab_size_divisible_by: int = 128
    """Pad the vocabulary to a multiple of this times the tensor parallelism."""
    init_method_std: float = 0.02
    """Standard deviation of the initial weights."""
    hidden_dropout: float = 0.0
    """Dropout on hidden states."""
    attention_dropout: float = 0.0
    """Dropout on attention weights."""


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
    use_distributed_optimizer: bool = False
    """Shard optimizer states over data-parallel processes."""
    overlap_grad_reduce: bool = False
    """Reduce gradients while backward goes on."""
    distributed_timeout_minutes: int = 10
    """A process that waits longer for another gives up."""


@dataclass(frozen=True, kw_only=True)
class ScheduleOptions:
    """Schedule: in which order chunks of microbatches pass the stages."""

    pipeline_schedule: str | None = None
    """Name of a schedule; seq1f1b if --pipe-sp-splits > 1, else 1f1b; interleaved with virtual stages."""
    pipe_sp_splits: int = 1
    """Chunks per sequence, k."""
    pipe_sp_strategy: Literal["average", "uniform_comp"] = "uniform_comp"
    """Even chunks, or chunks of even computation."""


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Training: batches, length and precision."""

    seq_length: int
    """Tokens per sample."""
    micro_batch_size: int
    """Samples per microbatch and data-parallel process."""
    global_batch_size: int | None = None
    """Samples per step over all processes; micro batch x data parallelism."""
    train_iters: int
    """Steps to train."""
    seed: int = 1234
    """Decides initial weights and the order of samples, under any layout."""
    bf16: bool = False
    """Compute in bfloat16, with float32 master weights."""
    log_interval: int = 10
    """Steps between lines on the terminal."""
    eval_iters: int = 0
    """Batches per validation; 0 for none."""
    eval_interval: int = 1000
    """Steps between validations."""


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """Optimizer: AdamW and its learning rate."""

    lr: float
    """Highest learning rate."""
    min_lr: float = 0.0
    """Lowest learning rate."""
    lr_decay_style: Literal["constant", "linear", "cosine"] = "cosine"
    """How the learning rate falls."""
    lr_decay_iters: int | None = None
    """Steps over which it falls; all."""
    lr_warmup_iters: int = 0
    """Steps over which it rises."""
    lr_warmup_init: float = 0.0
    """Learning rate at the first step of the warmup."""
    weight_decay: float = 0.01
    """Decoupled weight decay of matrices."""
    adam_beta1: float = 0.9
    """Decay of the first moment."""
    adam_beta2: float = 0.999
    """Decay of the second moment."""
    adam_eps: float = 1e-8
    """Added to the root of the second moment."""
    clip_grad: float = 1.0
    """Largest gradient norm; 0 for no clipping."""


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Data: files, tokenizer and documents."""

    data_path: list[str] = field(default_factory=list)
    """Prefix of a .bin/.idx pair, or weight prefix weight prefix ..."""
    split: str = "969,30,1"
    """Shares of training, validation and test."""
    mock_data: bool = False
    """Synthetic documents instead of files."""
    data_cache_path: str | None = None
    """Folder for sample indices; beside the data."""
    tokenizer_type: str = "GPT2BPETokenizer"
    """Class of tokenizer, as in tools/preprocess_data.py."""
    vocab_file: str | None = None
    """vocab.json of GPT2BPETokenizer."""
    merge_file: str | None = None
    """merges.txt of GPT2BPETokenizer."""
    tokenizer_model: str | None = None
    """File or folder of the other tokenizers."""
    vocab_size: int | None = None
    """Ids of NullTokenizer, 0 to N-1; end-of-document is N."""
    reset_position_ids: bool = False
    """Count positions from each document's start."""
    reset_attention_mask: bool = False
    """No attention across documents."""
    eod_mask_loss: bool = False
    """No loss on end-of-document tokens."""
    num_workers: int = 2
    """Threads or processes that prepare batches."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Run: where its files go."""

    run_dir: str | None = None
    """Folder of the resolved configuration and metrics.jsonl; a new one below runs/."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """All options of a run, by section."""

    model: ModelOptions
    parallel: ParallelOptions
    schedule: ScheduleOptions
    training: TrainingOptions
    optimizer: OptimizerOptions
    data: DataOptions
    run: RunOptions
