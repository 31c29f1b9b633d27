#!/usr/bin/env bash
# A 13B model on 32 GPUs: 4 pipeline stages x 8 tensor-parallel, sequences of 64K tokens.
#
#   DATA_PATH=my_text_document VOCAB_FILE=vocab.json MERGE_FILE=merges.txt bash examples/launch/pretrain_13b_32_gpus.sh
#   DRY_RUN=1 SEQ_LENGTH=131072 PP_SP=8 bash examples/launch/pretrain_13b_32_gpus.sh    # commands and memory, on any machine
#   SCHEDULE="1f1b seq1f1b" TRAIN_ITER=20 bash examples/launch/pretrain_13b_32_gpus.sh    # compared, on the cluster
#
# For GPUs of 80 GB; SEQ_LENGTH from 32768 to 131072, the longest in 8 chunks: PP_SP=8.
set -euo pipefail
export MODEL=13b NODES=${NODES:-4} GPUS_PER_NODE=${GPUS_PER_NODE:-8} PP_SIZE=4 TP_SIZE=8
export SCHEDULE=${SCHEDULE:-seq1f1b} SEQ_LENGTH=${SEQ_LENGTH:-65536} MICRO_BATCH=1 GLOBAL_BATCH=${GLOBAL_BATCH:-16}
export TRAIN_ITER=${TRAIN_ITER:-1000}
exec bash "$(dirname "${BASH_SOURCE[0]}")/../../exp.sh" "$@"
