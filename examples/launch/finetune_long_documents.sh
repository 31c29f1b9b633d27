#!/usr/bin/env bash
# Goes on training LLaMA-3-8B from a Hugging Face checkpoint on long documents, on 16 GPUs: 4 pipeline stages x 4
# tensor-parallel.
#
#   CHECKPOINT=Meta-Llama-3-8B DATA_PATH=my_text_document bash examples/launch/finetune_long_documents.sh
#   DRY_RUN=1 bash examples/launch/finetune_long_documents.sh    # commands and memory, on any machine
#
# CHECKPOINT is a folder of Hugging Face's: config.json, safetensors and the tokenizer. The first start converts it to LOAD
# (checkpoints/ and its name), a checkpoint in this project's format; of that the weights are taken (--finetune). With
# such a LOAD already, CHECKPOINT is not needed, but TOKENIZER is: a Hugging Face folder or name, with which the documents
# were made into token files:
#   python tools/preprocess_data.py --input documents.jsonl --output-prefix my --tokenizer-type HuggingFaceTokenizer \
#     --tokenizer-model TOKENIZER --append-eod
# Documents that share a sequence do not see each other. Its own checkpoints go to SAVE; started again, it goes on from
# them, under any layout; back to Hugging Face's format:
#   python tools/convert_checkpoint.py to-hf --load checkpoints/finetuned --output FOLDER
set -euo pipefail
repository=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../..")

# convert FROM TO: makes a Hugging Face checkpoint ours, unless it is; one process at a time, where nodes share a folder.
convert() (
  mkdir -p "$2"
  exec 8>"$2/converting"
  ! command -v flock >/dev/null || flock 8
  [ ! -e "$2/latest_checkpointed_iteration.txt" ] || return 0
  cd "$repository"
  source tools/setup_environment.sh
  use_environment train
  say "converting $1 to $2"
  python tools/convert_checkpoint.py from-hf --input "$1" --save "$2"
)

if [ "${DRY_RUN:-0}" != 1 ]; then
  if [ -n "${CHECKPOINT:-}" ]; then
    CHECKPOINT=$(realpath "$CHECKPOINT")
    TOKENIZER=${TOKENIZER:-$CHECKPOINT}
    LOAD=$(realpath -m "${LOAD:-checkpoints/$(basename "$CHECKPOINT")}")
  fi
  : "${LOAD:?CHECKPOINT or LOAD names what to start from, as in CHECKPOINT=Meta-Llama-3-8B}"
  : "${TOKENIZER:?names the tokenizer, as in TOKENIZER=meta-llama/Meta-Llama-3-8B}"
  : "${DATA_PATH:?names the token files, as in DATA_PATH=my_text_document}"
  [ -z "${CHECKPOINT:-}" ] || convert "$CHECKPOINT" "$LOAD"
  export LOAD
fi
export MODEL=llama3-8b NODES=${NODES:-2} GPUS_PER_NODE=${GPUS_PER_NODE:-8} PP_SIZE=${PP_SIZE:-4} TP_SIZE=${TP_SIZE:-4}
export SCHEDULE=${SCHEDULE:-seq1f1b} SEQ_LENGTH=${SEQ_LENGTH:-65536} MICRO_BATCH=1 GLOBAL_BATCH=${GLOBAL_BATCH:-16}
export TRAIN_ITER=${TRAIN_ITER:-500} LR=${LR:-2e-5} FINETUNE=1
export SAVE=${SAVE:-checkpoints/finetuned} SAVE_INTERVAL=${SAVE_INTERVAL:-100}
tokenizer=()
if [ -n "${TOKENIZER:-}" ]; then
  tokenizer=(--tokenizer-type HuggingFaceTokenizer --tokenizer-model "$TOKENIZER")
fi
exec bash "$repository/exp.sh" --rotary-base 500000 --reset-attention-mask --reset-position-ids "${tokenizer[@]}" "$@"
