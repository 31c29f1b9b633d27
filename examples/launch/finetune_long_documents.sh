#!/usr/bin/env bash
# Goes on training a LLaMA-3-like 8B model on long documents, on 16 GPUs: 4 pipeline stages x 4 tensor-parallel.
#
#   LOAD=checkpoint TOKENIZER=folder-of-the-tokenizer DATA_PATH=my_text_document \
#     bash examples/launch/finetune_long_documents.sh
#   DRY_RUN=1 bash examples/launch/finetune_long_documents.sh    # commands and memory, on any machine
#
# LOAD is a checkpoint in this project's format: only its weights are taken (--finetune). TOKENIZER is a Hugging Face
# folder or name, with which the documents were made into token files:
#   python tools/preprocess_data.py --input documents.jsonl --output-prefix my --tokenizer-type HuggingFaceTokenizer \
#     --tokenizer-model TOKENIZER --append-eod
# Documents that share a sequence do not see each other. Its own checkpoints go to SAVE; started again, it goes on from
# them.
set -euo pipefail
if [ "${DRY_RUN:-0}" != 1 ]; then
  : "${LOAD:?names the checkpoint to start from, as in LOAD=checkpoints/llama3-8b}"
  : "${TOKENIZER:?names the tokenizer, as in TOKENIZER=meta-llama/Meta-Llama-3-8B}"
  : "${DATA_PATH:?names the token files, as in DATA_PATH=my_text_document}"
fi
export MODEL=llama3-8b NODES=${NODES:-2} GPUS_PER_NODE=${GPUS_PER_NODE:-8} PP_SIZE=4 TP_SIZE=4
export SCHEDULE=${SCHEDULE:-seq1f1b} SEQ_LENGTH=${SEQ_LENGTH:-65536} MICRO_BATCH=1 GLOBAL_BATCH=${GLOBAL_BATCH:-16}
export TRAIN_ITER=${TRAIN_ITER:-500} LR=${LR:-2e-5} FINETUNE=1 SAVE=${SAVE:-checkpoints/finetuned} SAVE_INTERVAL=100
tokenizer=()
if [ -n "${TOKENIZER:-}" ]; then
  tokenizer=(--tokenizer-type HuggingFaceTokenizer --tokenizer-model "$TOKENIZER")
fi
exec bash "$(dirname "${BASH_SOURCE[0]}")/../../exp.sh" --rotary-base 500000 --reset-attention-mask \
  --reset-position-ids "${tokenizer[@]}" "$@"
