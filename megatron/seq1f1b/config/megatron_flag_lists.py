"""Which flags of Megatron-LM are accepted without effect, which are refused, and why.

A reason, and below it, indented, the flags that it holds for. `--flag=X` takes any value,
`--flag=X...` several, `--flag=value` that value alone: it asks for what happens here anyway. Flags
that are served are not here but in `sections/`.
"""

from __future__ import annotations

ACCEPTED = """
every attention backend here is a flash one
    --use-flash-attn
every model here is Megatron-Core's
    --use-mcore-models
layers are Megatron-Core's local ones
    --transformer-impl=X
the fused kernel is never used
    --no-gradient-accumulation-fusion --no-bias-gelu-fusion --no-bias-swiglu-fusion
    --no-bias-dropout-fusion --no-rope-fusion --cross-entropy-loss-fusion --cross-entropy-fusion-impl=X
attention has no separate softmax
    --no-masked-softmax-fusion
norms are torch's own
    --no-persist-layer-norm
attention scores are always float32 or wider
    --attention-softmax-in-fp32 --apply-query-key-layer-scaling
gradients of half precisions are summed in float32 but with --grad-reduce-in-bf16
    --accumulate-allreduce-grads-in-fp32
Megatron-Core 0.16.1 reads it with its FSDP alone
    --no-gradient-reduce-div-fusion
initial weights are the same under any layout
    --use-cpu-initialization
weights are always initialised, and then loaded
    --no-initialization
batches hold no masks; attention knows what is causal
    --no-create-attention-mask-in-dataloader
no token is padding
    --allow-ambiguous-pad-tokens
metrics.jsonl has the times of every step
    --timing-log-level=X --timing-log-option=X --no-barrier-with-level-1-timing
it is always in metrics.jsonl and in the charts
    --log-throughput --log-timers-to-tensorboard --log-memory-to-tensorboard
    --log-validation-ppl-to-tensorboard --no-log-loss-scale-to-tensorboard
    --log-learning-rate-to-tensorboard --log-batch-size-to-tensorboard --log-progress
the number of processes stands in config.json
    --log-world-size-to-tensorboard
the resolved configuration is always written, to config.json
    --config-logger-dir=X
energy is not measured
    --log-energy
messages are not graded by level
    --logging-level=X
loss spikes are always counted
    --check-for-spiky-loss
metrics.jsonl has the gradient norm of every step
    --check-for-large-grads
no step is run twice to compare
    --rerun-mode=X
--timeline shows which stage is slow
    --log-straggler --disable-straggler-on-startup --straggler-ctrlr-port=X --straggler-minmax-count=X
that service is not told of runs
    --enable-one-logger --no-one-logger --one-logger-project=X --one-logger-run-name=X
    --one-logger-async --app-tag-run-name=X --app-tag-run-version=X
checkpoints are Megatron-Core's distributed ones
    --use-dist-ckpt --auto-detect-ckpt-format
checkpoints are Megatron-Core's distributed ones, of the format torch_dist
    --ckpt-format=torch_dist --dist-ckpt-format=torch_dist
every process writes its part, and any layout can read it
    --ckpt-fully-parallel-save --no-ckpt-fully-parallel-save --ckpt-fully-parallel-load
    --ckpt-assume-constant-structure --dist-ckpt-optim-fully-reshardable
    --distrib-optim-fully-reshardable-mem-efficient --use-persistent-ckpt-worker
what differs in a checkpoint is refused with its names
    --dist-ckpt-strictness=X
the flags always decide the schedule of the learning rate
    --override-opt_param-scheduler --override-opt-param-scheduler
the device's memory is not given back between steps
    --empty-unused-memory-level=X
the host waits for the device once a step
    --train-sync-interval=X
torchrun says it in the environment
    --local-rank=X
nccl with CUDA devices, gloo without
    --distributed-backend=X
data parallelism is always Megatron-Core's
    --DDP-impl=X
Megatron-Core decides itself how to overlap that reduction
    --no-async-tensor-model-parallel-allreduce
Megatron-Core's schedules never overlap it here, ours always do
    --no-overlap-p2p-communication
each stage reduces and gathers when it can
    --no-align-grad-reduce --no-align-param-gather
messages between stages are sent whole
    --no-scatter-gather-tensors-in-pipeline
embeddings are scattered without a copy kept
    --no-clone-scatter-output-in-embedding
it needs Transformer Engine's layers, which are not used
    --tp-comm-overlap --tp-comm-overlap-cfg=X --tp-comm-bootstrap-backend=X --tp-comm-overlap-rs-dgrad
    --disable-tp-comm-overlap-ag --disable-tp-comm-overlap-rs --disable-tp-comm-bulk-dgrad
    --disable-tp-comm-bulk-wgrad --disable-tp-comm-split-ag --disable-tp-comm-split-rs --te-rng-tracker
    --use-te-activation-func
groups of processes are made with NCCL's own settings
    --nccl-communicator-config-path=X --use-nccl-ub --disable-symmetric-registration --use-sharp
    --sharp-enabled-group=X --high-priority-stream-groups=X... --disable-gloo-process-groups
    --pipeline-model-parallel-comm-backend=nccl
chunks divide the sequence; use --pipe-sp-splits
    --context-parallel-size=1
there is no context parallelism
    --cp-comm-type=X...
optimizer states have one copy
    --num-distributed-optimizer-instances=1
experts are sharded as --tensor-model-parallel-size says
    --expert-tensor-parallel-size=1
every layer has experts, or none
    --moe-layer-freq=1
"""

REFUSED = """
use --num-layers
    --encoder-num-layers
use --seq-length
    --encoder-seq-length --decoder-seq-length
use --vocab-file
    --vocab
use --norm-epsilon
    --layernorm-epsilon
use --tensor-model-parallel-size
    --model-parallel-size
use --micro-batch-size and --global-batch-size
    --batch-size
use --recompute-granularity full
    --checkpoint-activations
use --recompute-granularity selective
    --recompute-activations
use --position-embedding-type rope
    --use-rotary-position-embeddings
use --position-embedding-type
    --no-position-embedding --no-add-position-embedding --rope-type
use --lr-warmup-iters, --lr-warmup-samples or --lr-warmup-fraction
    --warmup
use --config
    --yaml-cfg
use --make-vocab-size-divisible-by
    --padded-vocab-size
use --train-data-path, --valid-data-path and --test-data-path
    --per-split-data-args-path
use --load with --finetune
    --pretrained-checkpoint --load-main-params-from-ckpt
give --config the config.json of the run that wrote the checkpoint
    --use-checkpoint-args --use-mp-args-from-checkpoint-args --use-checkpoint-opt_param-scheduler
    --use-checkpoint-opt-param-scheduler --no-use-tokenizer-model-from-checkpoint-args
use --save-interval with --keep-latest
    --save-retain-interval --non-persistent-save-interval --non-persistent-ckpt-type
    --non-persistent-global-ckpt-dir --non-persistent-local-ckpt-dir --non-persistent-local-ckpt-algo
    --replication --replication-jump --replication-factor
checkpoints have the format torch_dist alone
    --ckpt-convert-format --ckpt-convert-save --ckpt-convert-update-legacy-dist-opt-format
    --dist-ckpt-save-pre-mcore-014
use --exit-signal-handler or --exit-duration-in-mins, and torchrun --max-restarts
    --adlr-autoresume --adlr-autoresume-interval --enable-ft-package --inprocess-restart
use --timeline
    --profile --profile-step-start --profile-step-end --profile-ranks --use-pytorch-profiler
use --dry-run
    --record-memory-history --memory-snapshot-path
validation takes --eval-iters batches
    --full-validation
it is for Megatron-LM's own tests
    --test-mode --error-injection-rate --error-injection-type
every step is trained
    --skip-train --iterations-to-skip --result-rejected-tracker-filename
use --use-distributed-optimizer
    --use-torch-fsdp2 --use-megatron-fsdp --data-parallel-sharding-strategy
use --recompute-granularity
    --cpu-offloading-num-layers
it pins host memory beside a GPU, and its states were never resumed here; use --use-distributed-optimizer
    --optimizer-cpu-offload --optimizer-offload-fraction --use-torch-optimizer-for-cpu-offload
    --overlap-cpu-optimizer-d2h-h2d --no-pin-cpu-grads --no-pin-cpu-params
it needs the Adam of Transformer Engine 2.1 on a GPU, never run here; use --use-distributed-optimizer
    --use-precision-aware-optimizer --main-grads-dtype --main-params-dtype --exp-avg-dtype
    --exp-avg-sq-dtype
use --sequence-parallel
    --distribute-saved-activations
use --pipeline-schedule seq1f1b-zb
    --defer-embedding-wgrad-compute --wgrad-deferral-limit
the schedule decides; give --pipeline-schedule a plan of your own
    --microbatch-group-size-per-virtual-pipeline-stage
Megatron-Core's messages cross in some layouts when batched; leave it out
    --overlap-p2p-communication-warmup-flush --use-ring-exchange-p2p
use --overlap-param-gather; an optimizer of its own for the first model part has checkpoints of its own
    --overlap-param-gather-with-optimizer-step
ranks are laid out tensor, data, pipeline; leave it out
    --use-tp-pp-dp-mapping
use --pipe-sp-splits
    --hierarchical-context-parallel-sizes --hybrid-context-parallel
use torchrun --nproc_per_node with the processes that are left
    --decrease-batch-size-if-needed
chunks have no fixed graph
    --enable-cuda-graph --cuda-graph-impl --cuda-graph-scope --external-cuda-graph
use GELU (the default)
    --onnx-safe
use --bf16
    --fp8-format --fp8-recipe --fp8-param-gather --fp8-margin --fp8-hybrid --fp4-format
Megatron-Core 0.16.1 adds residuals in the layers' precision all the same; leave it out
    --fp32-residual-connection
Megatron-Core 0.16.1 has no layer that reads it; leave it out
    --apply-residual-connection-post-layernorm
losses are float32; leave it out
    --fp16-lm-cross-entropy
positions are those of tokens, and not of pictures; use --position-embedding-type rope
    --mrope-section
attention kernels here have the plain softmax alone; leave it out
    --softmax-type --qk-clip --qk-clip-alpha --qk-clip-threshold --log-max-attention-logit
all replicas start from the same weights; leave it out
    --data-parallel-random-init
it needs NVIDIA's package emerging_optimizers, which is not used here; use --optimizer adam or sgd
    --use-muon --muon-momentum --muon-no-split-qkv --muon-use-nesterov --muon-scale-mode
    --muon-fp32-matmul-prec --muon-num-ns-steps --muon-tp-mode --muon-extra-scale-factor
use --decoupled-lr
    --head-lr-mult
chunks keep keys and values and not latents; use --group-query-attention
    --multi-latent-attention
every layer predicts the next token alone
    --mtp-num-layers --mtp-loss-scaling-factor
every layer is alike
    --heterogeneous-layers-config-path --spec
every model here is Megatron-Core's
    --use-legacy-models
which tokens an expert drops would depend on the chunks; leave it out, and no token is dropped
    --moe-expert-capacity-factor
experts have no capacity; leave it out
    --moe-pad-expert-input-to-capacity --moe-token-drop-policy --moe-token-dropping
its noise would depend on the chunks and the layout; leave it out
    --moe-input-jitter-eps
tokens would go to experts by chance, for timings alone; leave it out, and a dry run balances experts
    --moe-router-force-load-balancing
its projections are Transformer Engine's, which is not used; use --moe-ffn-hidden-size for smaller experts
    --moe-latent-size
shared experts run after the others; leave it out
    --moe-shared-expert-overlap
use --moe-router-num-groups and --moe-router-group-topk
    --moe-router-topk-limited-devices
its kernels are of packages for GPUs that nothing here has run; leave it out
    --moe-enable-deepep --moe-deepep-num-sms --moe-hybridep-num-sms --moe-flex-dispatcher-backend
    --moe-permute-fusion --moe-router-fusion --moe-use-legacy-grouped-gemm
experts compute in the model's precision; leave it out
    --moe-router-padding-for-quantization --moe-router-padding-for-fp8
it is for reinforcement learning; leave it out
    --moe-enable-routing-replay
its kernels need a GPU that nothing here has run them on; leave it out, and experts run one after another
    --moe-grouped-gemm
the tokenizer is what its files say; use another --tokenizer-type
    --vocab-extra-ids --tiktoken-pattern --tiktoken-num-special-tokens --tiktoken-special-tokens
    --tokenizer-metadata --legacy-tokenizer --trust-remote-code
"""

REFUSED_VALUES = """
it looks at all tokens of a forward, so results would depend on the chunks; use aux_loss or seq_aux_loss
    --moe-router-load-balancing-type=sinkhorn
its counts run on over microbatches of all replicas, in their order; use aux_loss or seq_aux_loss
    --moe-router-load-balancing-type=global_aux_loss
its kernels are of packages for GPUs that nothing here has run; use alltoall
    --moe-token-dispatcher-type=flex
it needs NVIDIA's package emerging_optimizers, which is not used here; use adam or sgd
    --optimizer=muon --optimizer=dist_muon
"""


def by_flag(text: str) -> dict[str, str]:
    """Every flag of a list, with its values, and the reason."""
    found = {}
    why = ""
    for line in text.strip().splitlines():
        if line.startswith(" "):
            found.update(dict.fromkeys(line.split(), why))
        else:
            why = line
    return found
