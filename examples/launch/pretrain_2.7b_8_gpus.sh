#!/usr/bin/env bash
# A 2.7B model on 8 GPUs: 8 pipeline stages, sequences of 32K tokens.
#
#   DATA_PATH=my_text_document VOCAB_FILE=vocab.json MERGE_FILE=merges.txt bash examples/launch/pretrain_2.7b_8_gpus.sh
#   DRY_RUN=1 SEQ_LENGTH=16384 bash examples/launch/pretrain_2.7b_8_gpus.sh    # commands and memory, on any machine
#   SCHEDULE="1f1b seq1f1b" TRAIN_ITER=20 bash examples/launch/pretrain_2.7b_8_gpus.sh    # compared, on the cluster
#
# For GPUs of 80 GB; SEQ_LENGTH from 16384 to 49152.
set -euo pipefail
export MODEL=2.7b NODES=${NODES:-1} GPUS_PER_NODE=${GPUS_PER_NODE:-8} PP_SIZE=8 TP_SIZE=1
export SCHEDULE=${SCHEDULE:-seq1f1b} SEQ_LENGTH=${SEQ_LENGTH:-32768} MICRO_BATCH=1 GLOBAL_BATCH=${GLOBAL_BATCH:-16}
export TRAIN_ITER=${TRAIN_ITER:-1000}
exec bash "$(dirname "${BASH_SOURCE[0]}")/../../exp.sh" "$@"
