#!/usr/bin/env bash
# A 30B model on 64 GPUs: 8 pipeline stages x 8 tensor-parallel, sequences of 64K tokens.
#
#   DATA_PATH=my_text_document VOCAB_FILE=vocab.json MERGE_FILE=merges.txt bash examples/launch/pretrain_30b_64_gpus.sh
#   DRY_RUN=1 SEQ_LENGTH=131072 RECOMPUTE=full bash examples/launch/pretrain_30b_64_gpus.sh    # commands and memory, on any machine
#   SCHEDULE="1f1b seq1f1b" TRAIN_ITER=20 bash examples/launch/pretrain_30b_64_gpus.sh    # compared, on the cluster
#
# For GPUs of 80 GB; SEQ_LENGTH from 32768 to 131072, the longest with RECOMPUTE=full.
set -euo pipefail
export MODEL=30b NODES=${NODES:-8} GPUS_PER_NODE=${GPUS_PER_NODE:-8} PP_SIZE=8 TP_SIZE=8
export SCHEDULE=${SCHEDULE:-seq1f1b} SEQ_LENGTH=${SEQ_LENGTH:-65536} MICRO_BATCH=1 GLOBAL_BATCH=${GLOBAL_BATCH:-16}
export TRAIN_ITER=${TRAIN_ITER:-1000}
exec bash "$(dirname "${BASH_SOURCE[0]}")/../../exp.sh" "$@"
