#!/usr/bin/env bash
# Trains a GPT on real text with Seq1F1B, from nothing: environment, sample corpus, tokenizer, token files, training.
# What is already there is not made again.
#
#   bash exp.sh                                    # a small GPT; four CPU processes, or the GPUs of this machine
#   SCHEDULE=1f1b bash exp.sh                      # the same with Megatron-Core's 1F1B
#   PP_SP=8 SEQ_LENGTH=4096 bash exp.sh            # 8 chunks of longer sequences
#   DATA_PATH=my_text_document VOCAB_FILE=v.json MERGE_FILE=m.txt bash exp.sh
#   bash exp.sh --seed 7 --swiglu                  # further flags go to pretrain_gpt.py, and win
#
# Variables, with their defaults (flags of pretrain_gpt.py in brackets):
#   SCHEDULE=seq1f1b          [--pipeline-schedule] seq1f1b, 1f1b or interleaved
#   PP_SP=4                   [--pipe-sp-splits] chunks per sequence; 1 with 1f1b and interleaved
#   PP_SP_STR=uniform_comp    [--pipe-sp-strategy] or average
#   PP_SIZE=4                 [--pipeline-model-parallel-size]; with fewer than four GPUs, as many as fit
#   TP_SIZE=1                 [--tensor-model-parallel-size]; above 1 with --sequence-parallel
#   VPP_SIZE=1                virtual stages per stage (2 with interleaved)
#   GPUS_PER_NODE             processes; all GPUs, or PP_SIZE x TP_SIZE without GPUs
#   SEQ_LENGTH=2048 MICRO_BATCH=1 GLOBAL_BATCH=4 TRAIN_ITER=32
#   NUM_LAYERS=8 HIDDEN_SIZE=256 NUM_HEADS=4
#   DATA_PATH                 token files, without .bin and .idx; needs VOCAB_FILE and MERGE_FILE, or flags
#   SAMPLE_DIR=data/sample    where the sample corpus, its tokenizer and its token files are kept
#   SAMPLE_MEGABYTES=30       how much text the sample corpus holds
#   RUN_DIR                   where the run writes; a new folder below runs/
#   PYTHON                    the Python to start from
set -euo pipefail

main() {
  local started_at=$SECONDS
  resolve_paths
  cd "$(dirname "${BASH_SOURCE[0]}")"
  source tools/setup_environment.sh
  use_environment train
  choose_settings
  if [ -z "${DATA_PATH:-}" ]; then
    prepare_sample
  fi
  train "$@"
  python tools/summarize_run.py "$RUN_DIR"
  say "done in $((SECONDS - started_at)) s. Next, try:"
  suggest_next
}

# resolve_paths: paths that were given are seen from where the command was typed, not from this file's folder.
resolve_paths() {
  local name
  for name in DATA_PATH VOCAB_FILE MERGE_FILE SAMPLE_DIR RUN_DIR; do
    case ${!name:-/} in
      /*) ;;
      *) printf -v "$name" '%s/%s' "$PWD" "${!name}" ;;
    esac
  done
}

# choose_settings: the machine's devices, then every variable that was not given.
choose_settings() {
  NUM_GPUS=$(count_gpus)
  SCHEDULE=${SCHEDULE:-seq1f1b}
  case $SCHEDULE in
    seq1f1b*) PP_SP=${PP_SP:-4} ;;
    *) PP_SP=${PP_SP:-1} ;;
  esac
  case $SCHEDULE in
    *interleaved) VPP_SIZE=${VPP_SIZE:-2} ;;
    *) VPP_SIZE=${VPP_SIZE:-1} ;;
  esac
  PP_SP_STR=${PP_SP_STR:-uniform_comp}
  TP_SIZE=${TP_SIZE:-1}
  PP_SIZE=${PP_SIZE:-$(default_stages)}
  SEQ_LENGTH=${SEQ_LENGTH:-2048}
  MICRO_BATCH=${MICRO_BATCH:-1}
  GLOBAL_BATCH=${GLOBAL_BATCH:-4}
  TRAIN_ITER=${TRAIN_ITER:-32}
  NUM_LAYERS=${NUM_LAYERS:-8}
  HIDDEN_SIZE=${HIDDEN_SIZE:-256}
  NUM_HEADS=${NUM_HEADS:-4}
  SAMPLE_DIR=${SAMPLE_DIR:-data/sample}
  SAMPLE_MEGABYTES=${SAMPLE_MEGABYTES:-30}
  GPUS_PER_NODE=${GPUS_PER_NODE:-$(default_processes)}
  RUN_DIR=${RUN_DIR:-runs/$(date +%Y%m%d-%H%M%S)-$SCHEDULE-pp$PP_SIZE-tp$TP_SIZE-k$PP_SP}
}

# count_gpus: prints how many CUDA devices torch can use.
count_gpus() {
  local number=0
  if nvidia-smi -L >/dev/null 2>&1; then
    number=$(python -c 'import torch; print(torch.cuda.device_count())')
    [ "$number" -gt 0 ] || say "this machine has GPUs, but this torch cannot use them: training on CPU" >&2
  fi
  echo "$number"
}

# default_stages: four, or with fewer GPUs the power of two that fits.
default_stages() {
  local stages=4
  if [ "$NUM_GPUS" -gt 0 ]; then
    while [ $((stages * TP_SIZE)) -gt "$NUM_GPUS" ] && [ "$stages" -gt 1 ]; do
      stages=$((stages / 2))
    done
  fi
  echo "$stages"
}

# default_processes: one model, or as many replicas of it as GPUs and global batch allow.
default_processes() {
  local per_replica=$((PP_SIZE * TP_SIZE)) replicas=1
  if [ "$NUM_GPUS" -gt "$per_replica" ]; then
    replicas=$((NUM_GPUS / per_replica))
    while [ $((GLOBAL_BATCH % (MICRO_BATCH * replicas))) -ne 0 ] && [ "$replicas" -gt 1 ]; do
      replicas=$((replicas - 1))
    done
  fi
  echo $((replicas * per_replica))
}

# prepare_sample: real text without a download (the Python sources on this machine), as token files.
prepare_sample() {
  local corpus=$SAMPLE_DIR/python.jsonl tokenizer=$SAMPLE_DIR/tokenizer prefix=$SAMPLE_DIR/python
  DATA_PATH=${prefix}_content_document
  VOCAB_FILE=$tokenizer/vocab.json
  MERGE_FILE=$tokenizer/merges.txt
  step "sample corpus" "$corpus" \
    python tools/make_sample_corpus.py --output "$corpus" --json-key content --megabytes "$SAMPLE_MEGABYTES"
  step "tokenizer" "$MERGE_FILE" \
    python tools/train_tokenizer.py --input "$corpus" --json-key content --vocab-size 4096 \
    --output-dir "$tokenizer"
  step "token files" "$DATA_PATH.idx" \
    python tools/preprocess_data.py --input "$corpus" --output-prefix "$prefix" --json-keys content \
    --tokenizer-type GPT2BPETokenizer --vocab-file "$VOCAB_FILE" --merge-file "$MERGE_FILE" \
    --workers 4 --append-eod
}

# step NAME OUTPUT COMMAND...: runs the command unless its output is there already.
step() {
  local name=$1 output=$2
  shift 2
  if [ -e "$output" ]; then
    say "$name: already there ($output)"
    return
  fi
  say "$name: making $output"
  "$@"
}

# train FLAGS...: starts the processes; FLAGS come last and win.
train() {
  local -a tokenizer=()
  if [ -n "${VOCAB_FILE:-}" ] && [ -n "${MERGE_FILE:-}" ]; then
    tokenizer=(--tokenizer-type GPT2BPETokenizer --vocab-file "$VOCAB_FILE" --merge-file "$MERGE_FILE")
  elif [[ " $* " != *" --tokenizer-type "* ]]; then
    fail "DATA_PATH=$DATA_PATH needs its tokenizer: VOCAB_FILE=.../vocab.json MERGE_FILE=.../merges.txt," \
      "or --tokenizer-type and what belongs to it after exp.sh"
  fi
  local -a flags=(
    --num-layers "$NUM_LAYERS" --hidden-size "$HIDDEN_SIZE" --num-attention-heads "$NUM_HEADS"
    --position-embedding-type rope --normalization RMSNorm
    --seq-length "$SEQ_LENGTH" --max-position-embeddings "$SEQ_LENGTH"
    --micro-batch-size "$MICRO_BATCH" --global-batch-size "$GLOBAL_BATCH" --train-iters "$TRAIN_ITER"
    --lr 2e-3 --min-lr 2e-4 --lr-decay-style cosine --lr-warmup-iters $((TRAIN_ITER / 10))
    --weight-decay 0.1 --adam-beta1 0.9 --adam-beta2 0.95 --clip-grad 1.0 --seed 1234
    --data-path "$DATA_PATH" --split "98,2,0" "${tokenizer[@]}"
    --tensor-model-parallel-size "$TP_SIZE" --pipeline-model-parallel-size "$PP_SIZE"
    --pipeline-schedule "$SCHEDULE" --pipe-sp-splits "$PP_SP" --pipe-sp-strategy "$PP_SP_STR"
    --log-interval 1 --eval-iters 0 --run-dir "$RUN_DIR"
  )
  if [ "$TP_SIZE" -gt 1 ]; then
    flags+=(--sequence-parallel)
  fi
  if [ "$VPP_SIZE" -gt 1 ]; then
    flags+=(--num-layers-per-virtual-pipeline-stage $((NUM_LAYERS / PP_SIZE / VPP_SIZE)))
  fi
  if [ "$NUM_GPUS" -gt 0 ]; then
    flags+=(--bf16)
    export CUDA_DEVICE_MAX_CONNECTIONS=${CUDA_DEVICE_MAX_CONNECTIONS:-1}
  elif [ -e /sys/class/net/lo ]; then
    export GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-lo}
  fi
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
  mkdir -p "$RUN_DIR"
  say "training: $GPUS_PER_NODE processes, output also in $RUN_DIR/train.log"
  python -u -m torch.distributed.run --standalone --nproc_per_node "$GPUS_PER_NODE" \
    pretrain_gpt.py "${flags[@]}" "$@" 2>&1 | tee "$RUN_DIR/train.log" ||
    fail "training ended early: the reason stands above and in $RUN_DIR/train.log"
}

# suggest_next: commands worth typing after this run.
suggest_next() {
  if [ "$SCHEDULE" = seq1f1b ]; then
    echo "  SCHEDULE=1f1b bash exp.sh               # Megatron-Core's 1F1B: compare tokens/s and memory"
  else
    echo "  SCHEDULE=seq1f1b bash exp.sh            # the same with Seq1F1B: compare tokens/s and memory"
  fi
  echo "  PP_SP=8 SEQ_LENGTH=4096 bash exp.sh     # more chunks of longer sequences"
  echo "  TRAIN_ITER=1000 bash exp.sh             # train for longer"
  echo "  bash tests/run.sh                       # the tests"
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then # not when a test sources the functions
  main "$@"
fi
